"""Cleaning: what is done to a document before it is converted, and which documents go."""
