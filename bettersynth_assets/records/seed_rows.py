"""Parses a seed row. In: the JSON object of a line, in kit or LLaVA format. Out: a ``SeedRow``, or ``RowError``.

kit     {"id", "text": "<__dj__image>\\ncaption <|__dj__eoc|>", "images": ["images/00609/006092514.jpg"]}
LLaVA   {"id", "image", "conversations": [{"from": "human", "value": "<image>\\nquestion"}, {"from": "gpt", "value"}]}

Both formats accept either image token, ``<__dj__image>`` or ``<image>``, and a string or a list of image paths. A row
from two joined files may have the keys of both formats; a null or empty value counts as absent. All other fields are
the row's ``extra``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bettersynth_assets.records.reserved import find_reserved
from toolkit.preprocess.row_lines import RowError
from toolkit.tokens import IMAGE_TOKENS, KIT_END

OWN_FIELDS = frozenset({"id", "text", "images", "image", "conversations"})
OUR_NAMES = re.compile(r"__(?!dj__suffix__$)|image_embedding$|image_hash$")
"""Field names reserved by Data-Juicer or this project; a seed may only set ``__dj__suffix__``."""
DEEPEST_NAMES = 6
TOKEN = "|".join(IMAGE_TOKENS)
LEADING = re.compile(rf"\s*(?:{TOKEN})")
TRAILING = re.compile(rf"(?:{TOKEN})\s*\Z")


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """A parsed row, before its image is checked."""

    id: str
    image: str
    caption: str
    """The caption without special tokens, stripped."""
    question: str | None = None
    """The human turn of a LLaVA row without its image token; None for a kit row."""
    extra: str | None = None
    """JSON object with sorted keys: the fields that neither format defines; None if there are none."""


def parse_row(values: dict[str, Any]) -> SeedRow:
    """Parse a row of either format.

    Args:
        values: the object from ``read_line``.

    Raises:
        RowError: ``missing_field``, ``missing_image``, ``several_images``, ``image_token_mismatch``,
            ``reserved_token`` or ``empty_text``.
    """
    images = _images(values)
    question = None
    if values.get("conversations"):
        prompt, answer = _turns(values["conversations"])
        question, tokens = _strip_tokens(prompt)
        _refuse_reserved(question)
        caption = answer.strip()
    elif isinstance(values.get("text"), str):
        caption, tokens = _strip_tokens(values["text"].strip().removesuffix(KIT_END))
    else:
        raise RowError("missing_field", f"neither `text` nor `conversations` contains text; keys: {', '.join(values)}")
    if tokens != len(images):
        raise RowError("image_token_mismatch", f"{tokens} image tokens for {len(images)} images")
    if not images:
        raise RowError("missing_image", "the row names no image")
    if len(images) > 1:
        raise RowError("several_images", f"{len(images)} images in one row; a row is one image with one caption")
    if not caption:
        raise RowError("empty_text", "the caption is empty apart from special tokens")
    _refuse_reserved(caption)
    return SeedRow(id=values["id"], image=images[0], caption=caption, question=question, extra=_extra(values))


def image_field(values: Mapping[str, Any]) -> Any:
    """Return a row's image field: ``images``, or ``image`` if that is absent or empty."""
    return values.get("images") or values.get("image", values.get("images"))


def field_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of extra fields that operators receive; nested fields with dots, e.g. ``meta.score``."""
    extra = {name: value for name, value in values.items() if name not in OWN_FIELDS and not OUR_NAMES.match(name)}
    return _names(extra, "", DEEPEST_NAMES)


def _names(values: Mapping[str, Any], above: str, levels: int) -> Iterator[str]:
    for name, value in values.items():
        yield above + name
        if isinstance(value, dict) and levels > 1:
            yield from _names(value, f"{above}{name}.", levels - 1)


def _extra(values: dict[str, Any]) -> str | None:
    extra = {name: value for name, value in values.items() if name not in OWN_FIELDS}
    if not extra:
        return None
    try:
        return json.dumps(extra, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError:  # e.g. 1e999, which is valid JSON but parses as infinity
        raise RowError("nan", f"a number in {', '.join(sorted(extra))} is too large") from None
    except RecursionError:
        raise RowError("invalid_json", f"objects nested too deep in {', '.join(sorted(extra))}") from None


def _images(values: dict[str, Any]) -> list[str]:
    value = image_field(values)
    images = [value] if isinstance(value, str) else value
    images = [image for image in images if image is not None] if isinstance(images, list) else images
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise RowError("missing_field", f"`images` must be a path or a list of paths, found {value!r}")
    return images


def _turns(conversations: Any) -> tuple[str, str]:
    """Return the texts of the human and gpt turn of a conversation that has exactly these two turns."""
    turns = conversations if isinstance(conversations, list) else []
    pairs = [(turn.get("from"), turn.get("value")) for turn in turns if isinstance(turn, dict)]
    if [speaker for speaker, _ in pairs] != ["human", "gpt"] or len(pairs) != len(turns):
        raise RowError("missing_field", "`conversations` must be one human and one gpt turn")
    (_, prompt), (_, answer) = pairs
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise RowError("missing_field", "a turn of `conversations` contains no text")
    return prompt, answer


def _strip_tokens(text: str) -> tuple[str, int]:
    """Strip and count image tokens at both ends; the check for reserved tokens finds those in the middle."""
    count = 0
    while match := LEADING.match(text) or TRAILING.search(text):
        text = text[match.end() :] if match.start() == 0 else text[: match.start()]
        count += 1
    return text.strip(), count


def _refuse_reserved(text: str) -> None:
    if token := find_reserved(text):
        raise RowError("reserved_token", f"{token} inside the text")
