"""Hugging Face folders in and out: one table of names, read both ways."""
