"""Row ids. In: a row's JSON object in kit or LLaVA format. Out: its id as a string.

An integral id is converted to its digits, so that ``17``, ``17.0`` and ``"17"`` identify the same row. The id of a row
without one is derived from its content (:func:`derived_id`): the same image path and caption have the same id in both
formats, in the seed file, in a questions file and in the kit's commands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from toolkit.tokens import IMAGE_TOKEN, KIT_END, KIT_IMAGE_TOKEN

ID_LENGTH = 24
"""Hex digits of a derived id: with 96 bits, 10^9 rows collide with a probability below 10^-10."""


def caption_of(text: str) -> str:
    """Return the caption without image tokens of either format and without the end mark, stripped."""
    text = text.strip().removesuffix(KIT_END)
    return text.replace(KIT_IMAGE_TOKEN, "").replace(IMAGE_TOKEN, "").strip()


def row_id(values: Mapping[str, Any]) -> str | None:
    """Return the given or derived id of a row.

    Returns:
        None if the id is blank or is neither a string nor a whole number, or if a row without an id has neither an
        image nor a caption to derive it from.
    """
    given = values.get("id")
    if given is None:
        return derived_id(values)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return given if isinstance(given, str) and given.strip() else None


def derived_id(values: Mapping[str, Any]) -> str | None:
    """Return the first 24 hex digits of the SHA-256 of ``image path + "\\n" + caption`` in UTF-8."""
    images = values.get("images") or values.get("image")
    images = images if isinstance(images, list) else [images]
    turns = values.get("conversations")
    if isinstance(turns, list) and turns:
        text = turns[-1].get("value") if isinstance(turns[-1], dict) else None
    else:
        text = values.get("text")
    parts = [image for image in images if isinstance(image, str)]
    caption = caption_of(text) if isinstance(text, str) else ""
    if not parts and not caption:
        return None
    return hashlib.sha256("\n".join([*parts, caption]).encode("utf-8", "surrogatepass")).hexdigest()[:ID_LENGTH]
