"""Special tokens of the row formats: the contest kit's (Data-Juicer's), LLaVA's, and Gemma's turns."""

from __future__ import annotations

IMAGE_TOKEN = "<image>"
"""Stands for the image in LLaVA's JSON and in prompts."""
KIT_IMAGE_TOKEN = "<__dj__image>"
"""Stands for the image in the kit's text."""
KIT_END = "<|__dj__eoc|>"
"""Ends a chunk of the kit's text: one image with its caption."""
IMAGE_TOKENS = (KIT_IMAGE_TOKEN, IMAGE_TOKEN)
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"


def kit_text(caption: str) -> str:
    """Return a caption in the kit's format, the input text of Data-Juicer's operators."""
    return f"{KIT_IMAGE_TOKEN}\n{caption} {KIT_END}"


def with_image(text: str) -> str:
    """Return a question that begins with its image."""
    return f"{IMAGE_TOKEN}\n{text}"
