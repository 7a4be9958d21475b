"""Cleans what a captioner wrote. In: a raw caption and the prompt. Out: the text to use, and what was found.

prompt_echo   the caption begins with the prompt; the prompt is cut
lead_cut      a beginning of a machine-made description was cut: "Image may contain: ...", "This picture shows ..."
tail_cut      an ending of a stock-photo site was cut: "... stock photo", "- image # 4711", "royalty free image"
loop          the same one to eight words three times in a row, or one word for half of a longer caption: degenerate
empty         nothing is left, or only punctuation, or only such an ending: degenerate

BLIP-2 writes such endings on watermarked images (third-place write-up), and greedy decoding falls into loops. A
degenerate caption is never repaired: the caller keeps the original.
"""

from __future__ import annotations

import re
from collections import Counter

DEGENERATE = frozenset({"loop", "empty"})
MAX_CYCLE = 8
REPEATS = 3

_SITE = r"(?:shutterstock|getty ?images|istock(?: ?photo)?|alamy|dreamstime|depositphotos|123rf|adobe stock|freepik)"
_KIND = r"(?:photo(?:graph)?s?|images?|pictures?|vectors?|illustrations?|footage|clip ?art|art)"
_ENDINGS = (
    rf"(?:royalty|copyright)[ -]+free(?: (?:stock|{_KIND}))*",
    rf"free stock(?: {_KIND})*",
    rf"(?:editorial |vector )?stock {_KIND}(?: ?(?:&|and|,)? ?{_KIND})*",
    rf"(?:{_KIND} )?(?:©|\(c\)|by|from|on|via|at) ?{_SITE}(?:\.com)?",
    rf"{_KIND} ?(?:#|id:?) ?\d+",
)
_TAIL = re.compile(rf"(?:^|[ ,;:|–—-]+)(?:{'|'.join(_ENDINGS)})(?:[ ,-]*#? ?\d{{3,}})?[ .,;:|–—-]*$", re.IGNORECASE)
_LEAD = re.compile(
    rf"^(?:(?:an|a|the|this) )?{_KIND} (?:may|might) (?:contain|show|depict)s?\b[ :,-]*"
    rf"|^(?:the|this) {_KIND} (?:contain|show|depict)s\b[ :,-]*",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r".*[.!?。！？](?=\s|$)", re.DOTALL)


def clean(caption: str, prompt: str = "") -> tuple[str, tuple[str, ...]]:
    """Clean one caption.

    Args:
        caption: what the captioner wrote.
        prompt: what it was asked; "" for none.

    Returns:
        (text, flags). The text is "" where a flag is in ``DEGENERATE``; flags are sorted.
    """
    flags: set[str] = set()
    text = " ".join(caption.split())
    asked = " ".join(prompt.split())
    if asked and text.lower().startswith(asked.lower()):
        text = text[len(asked) :].lstrip(" :,.-?!")
        flags.add("prompt_echo")
    if _LEAD.match(text):
        text = _LEAD.sub("", text)
        flags.add("lead_cut")
    while (shorter := _TAIL.sub("", text)) != text:
        text = shorter.rstrip()
        flags.add("tail_cut")
    words = _WORD.findall(text.lower())
    if not words:
        flags.add("empty")
    elif _loops(words):
        flags.add("loop")
    return "" if flags & DEGENERATE else text, tuple(sorted(flags))


def whole(text: str) -> str:
    """A caption that the limit of tokens broke off, cut back to its last whole sentence, or else its last whole word.

    Whether the last word is whole cannot be seen, so it is left out too, unless it is the only one.
    """
    text = text.strip()
    if found := _SENTENCE.match(text):
        return found.group().strip()
    return text.rsplit(None, 1)[0].rstrip(" ,;:-") if " " in text else text


def _loops(words: list[str]) -> bool:
    """Whether one to ``MAX_CYCLE`` words stand ``REPEATS`` times in a row, or one word takes half of the text."""
    for size in range(1, MAX_CYCLE + 1):
        for first in range(len(words) - size * REPEATS + 1):
            cycle = words[first : first + size]
            if all(words[first + turn * size : first + (turn + 1) * size] == cycle for turn in range(1, REPEATS)):
                return True
    return len(words) >= 8 and Counter(words).most_common(1)[0][1] * 2 >= len(words)
