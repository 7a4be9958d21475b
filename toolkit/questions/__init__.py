"""Prompts, answers and files of answers. Imports no torch."""
