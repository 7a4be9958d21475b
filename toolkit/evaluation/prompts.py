"""What a benchmark asks and what an answerer gives back, whatever the architecture. Imports no model library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question about one image: its file, or its bytes.

    Args:
        id: named in errors.
        image: always shown before the text.
        text: as the benchmark asks it, instruction included.
        candidates: answers whose log-probability is wanted, e.g. the right one, or all options.
    """

    id: str
    image: Path | bytes
    text: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class CandidateScore:
    """How likely the model finds one candidate answer to a prompt.

    Args:
        text: the candidate; white space around it is not scored.
        log_probability: sum over its tokens, in nats, of a float32 log-softmax; the token that ends an answer is left
            out, as in lm-evaluation-harness, so that an answer which could go on is not punished.
        tokens: of the candidate, after the prompt; 0 when it has no text (its log-probability is then 0).
        characters: of the candidate's text.
    """

    text: str
    log_probability: float
    tokens: int
    characters: int


@dataclass(frozen=True)
class Answer:
    """A greedy answer, and the scores of the prompt's candidates in their order."""

    text: str
    candidates: tuple[CandidateScore, ...] = ()
