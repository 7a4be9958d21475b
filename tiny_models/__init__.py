"""Tiny models with random weights, which tests and speed measurements make where they run."""
