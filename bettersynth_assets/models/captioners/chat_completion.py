"""An answer of the chat protocol. In: its body. Out: the caption, or a ``CaptionError`` that says what is wrong."""

from __future__ import annotations

import json
import re

from bettersynth_assets.errors.redaction import redacted
from bettersynth_assets.records.reserved import CaptionError

MAX_CAPTION = 8_000
"""Characters; 512 tokens, the longest that a recipe can ask for, are fewer."""
CUT = ("length", "max_tokens")
"""How servers say that the token limit cut the answer off."""
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")


def failed(detail: str) -> CaptionError:
    """What a row without a caption gets."""
    return CaptionError("caption_failed", redacted(detail))


class Refused(CaptionError):
    """A request that is not sent again: the server refuses it, or has been asked often enough."""

    def __init__(self, detail: str) -> None:
        super().__init__("caption_failed", redacted(detail))


def caption_of(body: bytes) -> tuple[str, bool]:
    """The caption in an answer, and whether the token limit cut it off.

    Raises:
        CaptionError: there is none.
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
    if found := CONTROL.search(text):
        raise failed(f"the caption holds the character U+{ord(found.group()):04X}")
    return text, reason in CUT
