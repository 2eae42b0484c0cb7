"""Instruction-augmented text: pairs that a model writes about a text, set out behind it."""
