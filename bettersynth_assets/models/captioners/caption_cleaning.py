"""Cleans generated captions. In: a raw caption and the prompt. Out: the text to use, and flags.

Cut, and the rest is used:

reasoning_cut   a closed block before the answer: ``<think>...</think>``
prompt_echo     the prompt at the beginning of the caption
lead_cut        a typical beginning of generated descriptions: "Image may contain: ...", "Here is a caption: ..."
quotes_cut      quotation marks around all of it
tail_cut        a phrase of stock-photo sites at the end: "... stock photo", "- image # 4711", "royalty free image"

Degenerate: never repaired, the caller keeps the original. The first fault found is flagged.

reserved_token  a token of the formats or of a tokenizer (``records.reserved``)
broken_text     a control character, an incomplete character or a lone surrogate
reasoning       an unclosed block of reasoning
markup          JSON, a code fence, HTML, Markdown (``caption_faults``, like the next two)
refusal         "I'm sorry, but I can't help ...", "As an AI ..."
loop            repeated words
empty           nothing is left, or only punctuation, or only a phrase of a stock-photo site
caption_failed  the captioner's server returned no usable answer (``served``)

BLIP-2 writes such phrases on watermarked images (third-place write-up), and greedy decoding can end in loops.
"""

from __future__ import annotations

import re

from bettersynth_assets.models.captioners.caption_faults import is_loop, is_markup, is_refusal, straight
from bettersynth_assets.models.captioners.reasoning import without_reasoning
from bettersynth_assets.models.captioners.sentences import trim_incomplete
from bettersynth_assets.records.reserved import find_reserved

__all__ = ["DEGENERATE", "clean", "trim_incomplete", "validate"]
DEGENERATE = frozenset(
    {"reserved_token", "broken_text", "reasoning", "markup", "refusal", "loop", "empty", "caption_failed"}
)

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
_WRAPPER = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely)[,.!:]*\s+)?"
    r"(?:here(?:'s| is| are) (?:[\w-]+ ){1,8}?(?:caption|description|sentence|summary|answer)s?\b[^:.]{0,60}:"
    r"|(?:\w+ )?(?:caption|description|alt[- ]text|answer|assistant) ?:)\s*",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""(?:"([^"]+)"|“([^“”]+)”|「([^「」]+)」|«([^«»]+)»)\.?""")
_BROKEN = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff\ufffd\ufffe\uffff]")


def clean(caption: str, prompt: str = "") -> tuple[str, tuple[str, ...]]:
    """Clean one caption.

    Args:
        caption: the captioner's raw output.
        prompt: the captioner's prompt; "" for none.

    Returns:
        (text, flags). The text is "" if a flag is in ``DEGENERATE``; flags are sorted.
    """
    answer, has_reasoning, is_open = without_reasoning(caption)
    flags = {"reasoning_cut"} if has_reasoning else set()
    text = _cut(" ".join(answer.split()), " ".join(prompt.split()), flags)
    # An open block usually holds reserved tokens; the fault to report is the block.
    return _result(text, flags, "reasoning" if is_open else _fault(text, answer))


def validate(caption: str) -> tuple[str, tuple[str, ...]]:
    """Check a caption without cleaning it: only content that no row may hold is degenerate. Returns like ``clean``."""
    text = " ".join(caption.split())
    return _result(text, set(), _entry_fault(text))


def _result(text: str, flags: set[str], fault: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", tuple(sorted({*flags, fault}))) if fault else (text, tuple(sorted(flags)))


def _cut(text: str, prompt: str, flags: set[str]) -> str:
    """Cut the prompt's echo, typical beginnings and endings; adds what was cut to ``flags``."""
    if prompt and text.lower().startswith(prompt.lower()):
        text = text[len(prompt) :].lstrip(" :,.-?!")
        flags.add("prompt_echo")
    for pattern in (_WRAPPER, _LEAD):
        if match := pattern.match(straight(text)):
            text = text[match.end() :]
            flags.add("lead_cut")
    if match := _QUOTED.fullmatch(text):
        text = next(group for group in match.groups() if group).strip()
        flags.add("quotes_cut")
    while (shorter := _TAIL.sub("", text)) != text:
        text = shorter.rstrip()
        flags.add("tail_cut")
    return text


def _entry_fault(text: str) -> str | None:
    if find_reserved(text):
        return "reserved_token"
    if _BROKEN.search(text):
        return "broken_text"
    return None if re.search(r"\w", text) else "empty"


def _fault(text: str, answer: str) -> str | None:
    """Return the first fault of a caption: of its text in one line, or of the answer with its line breaks."""
    if fault := _entry_fault(text):
        return fault
    if is_markup(answer):
        return "markup"
    if is_refusal(text):
        return "refusal"
    return "loop" if is_loop(text) else None
