"""Reserved tokens: text that a format or a tokenizer reads as a token, and not as part of a caption.

Inside a caption, such a token changes what a model is shown: one more image, an early end, another speaker. The formats
also disagree about it, because the kit's converter removes image tokens wherever they stand. ``find_reserved`` is the
only check. It runs where text enters: seed rows and their questions, synthetic captions, and captions that a mapper
changed.
"""

from __future__ import annotations

import re

IMAGE_TOKENS = ("<__dj__image>", "<image>")
END_OF_CHUNK = "<|__dj__eoc|>"

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
    """A caption that must not enter a set; its row is quarantined with the reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def check_caption(caption: str) -> None:
    """Refuse a caption that a mapper or a model changed and that no row may hold.

    Raises:
        CaptionError: ``reserved_token``, as for a seed row; ``invalid_utf8`` for half of a surrogate pair, which no
            output file can hold.
    """
    if token := find_reserved(caption):
        raise CaptionError("reserved_token", f"{token} inside the text")
    if lone := re.search(r"[\ud800-\udfff]", caption):
        raise CaptionError("invalid_utf8", f"lone surrogate {lone.group()!r} inside the text")


def find_reserved(text: str) -> str | None:
    """The first reserved token inside a text, as it is written there; None if there is none.

    Case and spaces inside the brackets are ignored: a text mapper or a tokenizer's normalizer may remove the
    difference later, and ``<Image>`` is no part of a caption either.
    """
    found = _RESERVED.search(text)
    return found.group() if found else None
