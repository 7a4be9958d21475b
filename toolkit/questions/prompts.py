"""Input and output of an answerer, the same for all architectures. Imports no model library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question about one image.

    Args:
        id: for error messages.
        image: its file or its bytes; shown before the text.
        text: the whole prompt, including the instruction.
        candidates: answers whose log-probability is computed, e.g. the right one, or all options.
    """

    id: str
    image: Path | bytes
    text: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class CandidateScore:
    """Log-probability of one candidate answer to a prompt.

    Args:
        text: the candidate; surrounding white space is not scored.
        log_probability: sum over its tokens of a float32 log-softmax, nats, at most 0. The end-of-answer token is left
            out, as in lm-evaluation-harness, so that an answer which could continue is not penalised.
        tokens: number of the candidate's tokens; 0 if it has no text (its log-probability is then 0).
        characters: length of the candidate's text.
    """

    text: str
    log_probability: float
    tokens: int
    characters: int


@dataclass(frozen=True)
class Answer:
    """A greedy answer, and the scores of the prompt's candidates, in their order."""

    text: str
    candidates: tuple[CandidateScore, ...] = ()
