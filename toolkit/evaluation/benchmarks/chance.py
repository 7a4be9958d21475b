"""Chance levels: what a model scores that does not look at the images. In: questions. Out: percent, [0, 100].

- Questions with options: the expected value of picking one of the options with equal probability, for each question
  alone. The share of right answers is the mean of 1/k; a group that counts only if all its questions are right, as in
  CircularEval, has the product of 1/k.
- Questions with open answers: the value of the best constant answer, e.g. "no" to every question.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from toolkit.evaluation.benchmarks.protocol import Question
from toolkit.questions.answer_files import percent


def of_options(questions: Sequence[Question]) -> float:
    """Expected share of right answers; every question has options."""
    return percent(math.fsum(1 / len(row.options) for row in questions), len(questions))


def of_groups(questions: Sequence[Question], group: Callable[[Question], Hashable]) -> float:
    """Expected share of groups in which all questions are answered right; every question has options.

    Args:
        questions: the questions.
        group: names the group of a question.
    """
    found: dict[Hashable, float] = {}
    for row in questions:
        found[group(row)] = found.get(group(row), 1.0) / len(row.options)
    return percent(math.fsum(found.values()), len(found))


def of_constant_answer(scores: Iterable[Mapping[str, float]]) -> float:
    """Value of the best constant answer.

    Args:
        scores: for each question, the scores in [0, 1] of all answers that have one above 0.
    """
    totals: Counter[str] = Counter()
    questions = 0
    for of_question in scores:
        questions += 1
        totals.update(of_question)
    return percent(max(totals.values(), default=0.0), questions)
