"""Detects reserved tokens: text that a format or a tokenizer reads as a special token instead of as caption text.

Inside a caption, such a token changes a model's input: one more image, an early end, another speaker. The formats also
treat it differently, because the kit's converter removes image tokens at any position. ``find_reserved`` is the only
check. It runs wherever text enters: on seed rows and their questions, synthetic captions, and captions that a mapper
changed.
"""

from __future__ import annotations

import re

_ANGLE = (
    r"__dj__\w+",  # the kit's (Data-Juicer's): image, video, audio
    r"\|[^|<>\n]{1,40}\|",  # <|im_start|>, <|im_end|>, <|endoftext|>, <|eot_id|>, <|__dj__eoc|>, ...
    r"｜[^｜<>\n]{1,40}｜",  # DeepSeek's, with full-width bars
    r"(?:image|video|audio)",
    r"im_(?:start|end|patch)",  # LLaVA's and MGM's
    r"image_(?:placeholder|pad|soft_token)",
    r"(?:start|end)_of_(?:turn|image)",  # Gemma's
    r"(?:bos|eos|pad|unk|mask|unused\d+)",
    r"/?s",  # of SentencePiece vocabularies
    r"<\s*/?sys\s*>",  # Llama-2's <<SYS>>
)
_RESERVED = re.compile(rf"<\s*(?:{'|'.join(_ANGLE)})\s*>|\[\s*/?inst\s*\]", re.IGNORECASE)


class CaptionError(ValueError):
    """A caption that no set may contain; its row is quarantined with the reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def check_caption(caption: str) -> None:
    """Check a caption that a mapper or a model wrote.

    Raises:
        CaptionError: ``reserved_token``, as for a seed row; ``invalid_utf8`` for a lone surrogate, which cannot be
            written to an output file.
    """
    if token := find_reserved(caption):
        raise CaptionError("reserved_token", f"{token} inside the text")
    if lone := re.search(r"[\ud800-\udfff]", caption):
        raise CaptionError("invalid_utf8", f"lone surrogate {lone.group()!r} inside the text")


def find_reserved(text: str) -> str | None:
    """Return the first reserved token inside a text, as written there, or None.

    Ignores case and spaces inside the brackets, because a text mapper or a tokenizer's normalizer may remove these
    differences later.
    """
    match = _RESERVED.search(text)
    return match.group() if match else None
