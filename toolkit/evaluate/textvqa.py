"""TextVQA's metric. In: annotations and answers. Out: accuracy, and what was missing.

Score of one answer: over the ten human answers, leave one out, min(1, matches among the other nine / 3), averaged.
Answers are joined with ``TextVQA_0.5.1_val.json`` on (image id, lower-cased question); the question is read off the
prompt, as in LLaVA's evaluation. The protocol's name says whether prompts carried OCR tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluate.answer_processing import process_answer

HUMANS = 10
_OCR = "Reference OCR token:"
Key = tuple[str, str]


class AnswerError(ValueError):
    """Answers that cannot be scored: missing, surplus, or belonging to no question. Says how many and which first."""


def answer_score(prediction: str, humans: Sequence[str]) -> float:
    """Leave-one-out score of one answer against ten human ones, in [0, 1]."""
    if len(humans) != HUMANS:
        raise AnswerError(f"a question has {len(humans)} human answers; the metric needs {HUMANS}")
    wanted = process_answer(prediction)
    same = [process_answer(human) == wanted for human in humans]
    if not any(same):
        return 0.0
    parts = [min(1.0, (sum(same) - left_out) / 3) for left_out in same]
    return sum(parts) / len(parts)


def question_of(prompt: str) -> str:
    """The question inside a prompt: the line that is neither OCR tokens nor the instruction.

    Raises:
        AnswerError: the prompt has another layout.
    """
    lines = prompt.removeprefix("<image>\n").split("\n")
    if len(lines) == 3 and lines[0].startswith(_OCR):
        return lines[1]
    if len(lines) == 2 or (len(lines) == 3 and lines[1].startswith(_OCR)):
        return lines[0]
    raise AnswerError(f"no question found in the prompt {prompt!r}: expected question, OCR tokens, instruction")


def evaluate(annotations: Path, answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Score a complete set of answers.

    Args:
        annotations: ``TextVQA_0.5.1_val.json`` or a file of its layout.
        answers: ``question_id`` (the image id), ``prompt``, ``text``.

    Returns:
        ``accuracy`` in percent, ``n``, ``missing`` (0), ``protocol``, ``scores`` in the order of the answers.

    Raises:
        AnswerError: an annotated question without answer, or an answer more than there are questions.
    """
    data = json.loads(annotations.read_text("utf-8"))
    open_: dict[Key, list[Sequence[str]]] = {}
    for row in data["data"]:
        open_.setdefault((str(row["image_id"]), row["question"].lower()), []).append(row["answers"])
    total = sum(len(humans) for humans in open_.values())
    scores, surplus, with_ocr = [], [], 0
    for answer in answers:
        key = (str(answer["question_id"]), question_of(answer["prompt"]).lower())
        with_ocr += _OCR in answer["prompt"]
        if open_.get(key):
            scores.append(answer_score(answer["text"], open_[key].pop(0)))
        else:
            surplus.append(key)
    missing = [key for key, humans in open_.items() for _ in humans]
    if missing or surplus:
        first = (missing or surplus)[0]
        raise AnswerError(
            f"{len(missing)} of {total} questions have no answer and {len(surplus)} answers belong to no question or "
            f"come twice; the first: image {first[0]!r}, question {first[1]!r}. No score over a part of the set"
        )
    return {
        "accuracy": 100 * sum(scores) / len(scores),
        "n": len(scores),
        "missing": 0,
        "protocol": _protocol(data, with_ocr, total),
        "scores": scores,
    }


def _protocol(data: Mapping[str, Any], with_ocr: int, total: int) -> str:
    ocr = "with OCR tokens" if with_ocr == total else "without OCR tokens" if with_ocr == 0 else "OCR tokens in part"
    split = Counter(str(row.get("set_name", data.get("dataset_type", "?"))) for row in data["data"])
    version = data.get("dataset_version", "?")
    return f"TextVQA {version} {'+'.join(sorted(split))}, {ocr}, single word or phrase, leave-one-out"
