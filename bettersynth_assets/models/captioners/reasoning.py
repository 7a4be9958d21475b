"""Removes reasoning before a model's answer, e.g. ``<think>...</think>``. In: the model's text. Out: the answer."""

from __future__ import annotations

import re

_NAME = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPEN = re.compile(rf"(?:<\s*{_NAME}\s*>|◁\s*{_NAME}\s*▷|\[THINK\])", re.IGNORECASE)
_CLOSE = re.compile(rf"(?:<\s*/\s*{_NAME}\s*>|◁\s*/\s*{_NAME}\s*▷|\[/THINK\])", re.IGNORECASE)
_ANSWER = re.compile(r"<\s*/?\s*(?:answer|final)\s*>", re.IGNORECASE)


def after_reasoning(text: str) -> int:
    """Position after the last closed block; 0 if there is none. Chat templates may contain the opening tag."""
    return max((match.end() for match in _CLOSE.finditer(text)), default=0)


def without_reasoning(text: str) -> tuple[str, bool, bool]:
    """Remove blocks of reasoning from a model's text.

    Returns:
        The rest, without tags around the answer; whether a closed block was removed; whether one is left open.
    """
    start = after_reasoning(text)
    answer = text[start:]
    if start and not answer.strip():  # the answer may precede the block
        opened = _OPEN.search(text)
        answer = text[: opened.start()] if opened else ""
    return _ANSWER.sub(" ", answer), start > 0, _OPEN.search(answer) is not None
