"""The network and every function of its weights."""
