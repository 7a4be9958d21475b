"""Tiny models with random weights that tests and speed measurements create at run time."""
