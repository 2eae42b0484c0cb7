"""The testbed: a generated domain with known facts, to test the methods themselves on a small model."""
