"""Parses an answer of the chat protocol. In: its body. Out: the caption, or a ``CaptionError`` with the cause."""

from __future__ import annotations

import json
import re

from bettersynth_assets.errors.redaction import redacted
from bettersynth_assets.records.reserved import CaptionError

MAX_CAPTION = 8_000
"""Maximum number of characters; 512 tokens, the recipe's maximum, are fewer."""
CUT = ("length", "max_tokens")
"""Finish reasons of answers that the token limit cut off."""
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


def failed(detail: str) -> CaptionError:
    """Return the error of a row without a caption."""
    return CaptionError("caption_failed", redacted(detail))


class Refused(CaptionError):
    """A request that is not retried: the server refuses it, or all tries are used up."""

    def __init__(self, detail: str) -> None:
        super().__init__("caption_failed", redacted(detail))


def caption_of(body: bytes) -> tuple[str, bool]:
    """Return the caption of an answer, and whether the token limit cut it off.

    Raises:
        CaptionError: the answer has no caption.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["message"]["content"]
        reason = choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        begin = " ".join(CONTROL.sub(" ", body[:120].decode("utf-8", "replace")).split())
        raise failed(f"the answer is no chat completion ({type(error).__name__}): {begin!r}") from None
    if not isinstance(text, str):
        raise failed(f"the answer's content is no text ({type(text).__name__})")
    if len(text) > MAX_CAPTION:
        raise failed(f"the caption has {len(text)} characters, more than {MAX_CAPTION}")
    if control_character := CONTROL.search(text):
        raise failed(f"the caption holds the character U+{ord(control_character.group()):04X}")
    return text, reason in CUT
