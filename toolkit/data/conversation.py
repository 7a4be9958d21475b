"""Turns of a conversation and their encoding, whatever the chat template. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.tokens import IMAGE_TOKEN

IGNORE_INDEX = -100
"""Label of a position that carries no loss."""


class LabelError(ValueError):
    """A row that nothing can be learned from: no token of it carries loss."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One side of a conversation; ``speaker`` is ``human`` or ``gpt``, as in LLaVA's JSON."""

    speaker: str
    text: str

    def __post_init__(self) -> None:
        if self.speaker not in ("human", "gpt"):
            raise ValueError(f"speaker {self.speaker!r} is unknown; use 'human' or 'gpt'")


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """Token ids with one placeholder per image (which one is the architecture's), and labels of the same length."""

    input_ids: list[int]
    labels: list[int]


def is_blank(text: str) -> bool:
    """Whether a turn says nothing: no text, or white space and ``<image>`` alone."""
    return not text.replace(IMAGE_TOKEN, "").strip()


def exchanges(turns: tuple[Turn, ...] | list[Turn], *, row_id: str) -> list[tuple[str, str]]:
    """Questions with their answers; an answer before the first question is left out.

    Raises:
        ValueError: the turns do not alternate.
        LabelError: a question without an answer, or with an empty one.
    """
    answered = list(turns[1:] if turns and turns[0].speaker == "gpt" else turns)
    speakers = [turn.speaker for turn in answered]
    if not answered or speakers != (["human", "gpt"] * len(answered))[: len(answered)]:
        raise ValueError(f"row {row_id!r}: turns must alternate human, gpt: {speakers}")
    if len(answered) % 2 or any(is_blank(turn.text) for turn in answered[1::2]):
        raise LabelError(f"row {row_id!r}: a question has no answer or an empty one; complete or drop the row")
    return [(human.text, gpt.text) for human, gpt in zip(answered[::2], answered[1::2], strict=True)]
