"""One row per question. In: questions, answers with candidate scores, score of each. Out: rows, likelihood metrics.

::

    question_id      str    the benchmark's id; a second question of one id is ``<id>#2``
    cluster_id       str    the image: path inside its folder, or a hash of its bytes; equal for equal images
    answer           str    the model's answer
    right            float  score, [0, 1]
    log_probability  float  of the right answer: sum over its tokens, nats, at most 0; null if the question has none
    tokens           int    of the right answer
    characters       int    of the right answer
    options          object log-probability of each option, nats, by its text
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.evaluation.benchmarks.protocol import Metric, Question, Questions
from toolkit.questions.answer_files import DECIMALS
from toolkit.questions.prompts import Answer, CandidateScore

ROWS = "questions.jsonl"


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """One row; the module's docstring lists columns, units and ranges."""

    question_id: str
    cluster_id: str
    answer: str
    right: float
    log_probability: float | None
    tokens: int | None
    characters: int | None
    options: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """JSON values by name."""
        return asdict(self)


def question_rows(
    questions: Questions, answers: Sequence[Answer], right: Sequence[float], folders: Iterable[Path]
) -> list[QuestionRow]:
    """Build the row of each question.

    Args:
        folders: the folders that contain images.
    """
    seen: Counter[str] = Counter()
    roots, found = list(folders), []
    for question, answer, score in zip(questions.rows, answers, right, strict=True):
        seen[question.id] += 1
        number = seen[question.id]
        scores = {candidate.text: candidate for candidate in answer.candidates}
        found.append(
            QuestionRow(
                question_id=question.id if number == 1 else f"{question.id}#{number}",
                cluster_id=cluster_id(question.image, roots),
                answer=answer.text,
                right=score,
                **_of_right(question, scores),
                options={text: scores[text].log_probability for text in question.options if text in scores},
            )
        )
    return found


def cluster_id(image: Path | bytes, folders: Sequence[Path]) -> str:
    """Name of an image, independent of where its folder is."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:16]
    folder = folder_of(image, folders)
    return image.name if folder is None else image.relative_to(folder).as_posix()


def folder_of(image: Path, folders: Iterable[Path]) -> Path | None:
    """The innermost folder that contains an image, or None."""
    inside = [folder for folder in folders if image.is_relative_to(folder)]
    return max(inside, key=lambda folder: len(folder.parts), default=None)


def likelihood_metrics(rows: Sequence[QuestionRow], protocol: str) -> list[Metric]:
    """Mean log-probability of the right answer per token and per character, over the questions that have one."""
    metrics = []
    for name in ("token", "character"):
        shares = [
            row.log_probability / count
            for row in rows
            if row.log_probability is not None and (count := row.tokens if name == "token" else row.characters)
        ]
        if shares:
            value = round(math.fsum(shares) / len(shares), DECIMALS)
            label = f"log_probability_per_{name}"
            metrics.append(Metric(name=label, value=value, n=len(shares), unparsed=0, protocol=f"{protocol}, nats"))
    return metrics


def _of_right(question: Question, scores: dict[str, CandidateScore]) -> dict[str, Any]:
    found = scores.get(question.right) if question.right else None
    if found is None:
        return {"log_probability": None, "tokens": None, "characters": None}
    return {"log_probability": found.log_probability, "tokens": found.tokens, "characters": found.characters}
