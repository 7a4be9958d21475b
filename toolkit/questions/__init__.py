"""Questions to a model and its answers: prompts, their text, and files of answers. No torch is imported here."""
