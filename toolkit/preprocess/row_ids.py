"""Ids of rows. In: a row's JSON object, kit or LLaVA format. Out: its id, as text.

An id that is a whole number counts as its digits, so that ``17``, ``17.0`` and ``"17"`` are the same row. A row without
an id gets one from its content (:func:`derived_id`): the same image path and caption give the same id in both formats,
in the seed, in a questions file and in the kit's commands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

IMAGE_TOKEN = "<image>"
KIT_IMAGE_TOKEN = "<__dj__image>"
KIT_END = "<|__dj__eoc|>"
ID_LENGTH = 24
"""Hex digits of a derived id: 96 bits, so that 10^9 rows meet by chance with a probability under 10^-10."""


def caption_of(text: str) -> str:
    """The caption alone: without image tokens of either kind, without the end mark, stripped."""
    text = text.strip().removesuffix(KIT_END)
    return text.replace(KIT_IMAGE_TOKEN, "").replace(IMAGE_TOKEN, "").strip()


def row_id(values: Mapping[str, Any]) -> str | None:
    """The id of a row, given or derived; None for an id that is no text and no whole number, or that is blank.

    A row with neither image nor caption has nothing to derive an id from; it has none.
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
    """First 24 hex digits of the sha256 of ``image path + "\\n" + caption``, UTF-8."""
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
