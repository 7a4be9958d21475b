"""TextVQA's metric. In: annotations and answers. Out: accuracy and protocol.

Score of one answer: over the ten human answers, leave one out, min(1, matches among the other nine / 3), averaged.
An answer belongs to the annotation that its ``question_id`` names: the annotation's own number, or the id of an image
with a single question. Where an image has several questions, as in LLaVA's files, (image id, lower-cased question)
decides; the question is extracted from the prompt. The protocol names version and split, whether prompts contained OCR
tokens, and the instruction; values under different protocols are not comparable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.evaluation.benchmarks.textvqa.annotations import HUMANS, Annotation, read_annotations
from toolkit.evaluation.benchmarks.textvqa.answer_processing import process_answer
from toolkit.questions.answer_files import AnswerError, id_text, percent
from toolkit.tokens import with_image

__all__ = ["AnswerError", "Prompted", "answer_score", "answer_scores", "evaluate", "match", "read_prompt"]

INSTRUCTION = "Answer the question using a single word or phrase."
_OCR = "Reference OCR token:"
_OLD_FORM = re.compile(r"OCR tokens: .*?Question: (.*?) Short answer:", re.DOTALL)


class Prompted(NamedTuple):
    """Parts of a prompt: the question, whether it has OCR tokens, and the instruction ("" if there is none)."""

    question: str
    ocr: bool
    instruction: str


def answer_score(prediction: str, humans: Sequence[str]) -> float:
    """Leave-one-out score of an answer against ten human answers, [0, 1]."""
    if len(humans) != HUMANS:
        raise AnswerError(f"a question has {len(humans)} human answers; the metric needs {HUMANS}")
    wanted = process_answer(prediction)
    return _score([process_answer(human) == wanted for human in humans])


def answer_scores(humans: Sequence[str]) -> dict[str, float]:
    """Leave-one-out score of each different human answer, by its normalised text; any other answer has 0."""
    processed = [process_answer(human) for human in humans]
    return {answer: _score([human == answer for human in processed]) for answer in dict.fromkeys(processed)}


def _score(same: Sequence[bool]) -> float:
    """Leave-one-out score of an answer that equals these human answers."""
    if not any(same):
        return 0.0
    parts = [min(1.0, (sum(same) - left_out) / 3) for left_out in same]
    # In order, as the reference scores: from Python 3.12 on, `sum` compensates for rounding.
    return reduce(add, parts) / len(parts)


def read_prompt(prompt: str) -> Prompted:
    """Split a prompt in one of the layouts that LLaVA's evaluation reads.

    These are question, instruction; question, OCR tokens, instruction; OCR tokens, question, instruction (a line each),
    and ``OCR tokens: … Question: … Short answer:``. A question alone is accepted too.

    Raises:
        AnswerError: the prompt has another layout.
    """
    old = _OLD_FORM.match(prompt)
    if old:
        return Prompted(old[1], True, "Short answer:")
    lines = prompt.removeprefix(with_image("")).rstrip("\n").split("\n")
    ocr = [line.startswith(_OCR) for line in lines]
    if len(lines) == 3 and sum(ocr[:2]) == 1:
        return Prompted(lines[1] if ocr[0] else lines[0], True, lines[2])
    if len(lines) <= 2 and not any(ocr):
        return Prompted(lines[0], False, lines[1] if len(lines) == 2 else "")
    raise AnswerError(f"no question found in the prompt {prompt!r}: expected question, OCR tokens, instruction")


def match(annotations: Path, answers: Iterable[Mapping[str, Any]]) -> tuple[list[Sequence[str]], str]:
    """Find the human answers of each answered question.

    Args:
        annotations: ``TextVQA_0.5.1_val.json`` or a file of its layout.
        answers: ``question_id`` and ``prompt`` of each.

    Returns:
        Ten human answers per answer, in order; name of the protocol.

    Raises:
        AnswerError: annotations that cannot be used, an annotated question without an answer, more answers than
            questions, or a prompt without a question where the question is needed to find the annotation.
    """
    known = read_annotations(annotations)
    index = _Index(known.rows)
    found: list[Sequence[str]] = []
    surplus, prompts, differ = [], [], 0
    for answer in answers:
        key = id_text(answer["question_id"], where="question_id of an answer")
        number, asked = index.take(key, answer["prompt"])
        prompts.append(asked)
        if number is None:
            surplus.append((key, asked.question if asked else answer["prompt"]))
            continue
        found.append(known.rows[number].answers)
        differ += asked is None or _question_key(asked.question) != _question_key(known.rows[number].question)
    missing = [(row.image_id, row.question) for number, row in enumerate(known.rows) if number not in index.taken]
    if missing or surplus:
        first = (missing or surplus)[0]
        raise AnswerError(
            f"{len(missing)} of {len(known.rows)} questions have no answer and {len(surplus)} answers belong to no "
            f"question or come twice; the first: image {first[0]!r}, question {first[1]!r}. No score over a part of "
            "the set"
        )
    others = f", {differ} prompts differ from their question" if differ else ""
    return found, f"{known.name}, {_prompt_name([prompt for prompt in prompts if prompt])}{others}"


class _Index:
    """Annotations by number and by image, and which of them are already matched."""

    def __init__(self, rows: Sequence[Annotation]) -> None:
        self.taken: set[int] = set()
        self.by_number = {row.question_id: number for number, row in enumerate(rows) if row.question_id is not None}
        self.by_image: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            self.by_image.setdefault(row.image_id, []).append(number)
        self.questions = [_question_key(row.question) for row in rows]

    def take(self, key: str, prompt: str) -> tuple[int | None, Prompted | None]:
        """The unmatched annotation of an answer, or None, and the parts of its prompt."""
        numbered = [self.by_number[key]] if key in self.by_number else []
        candidates = list(dict.fromkeys([*numbered, *self.by_image.get(key, [])]))
        try:
            asked = read_prompt(prompt)
        except AnswerError as error:
            if len(candidates) != 1:
                raise AnswerError(f"question_id {key}: {error}") from None
            asked = None
        if len(candidates) > 1 and asked is not None:
            candidates = [n for n in candidates if self.questions[n] == _question_key(asked.question)] or numbered
        number = next((n for n in candidates if n not in self.taken), None)
        if number is not None:
            self.taken.add(number)
        return number, asked


def _question_key(question: str) -> str:
    return " ".join(question.lower().split())


def evaluate(annotations: Path, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score a complete set of answers.

    Args:
        annotations: ``TextVQA_0.5.1_val.json`` or a file of its layout.
        answers: ``question_id``, ``prompt``, ``text`` of each.

    Returns:
        ``accuracy`` in percent (``answer_files.DECIMALS`` decimals), ``n``, ``missing`` (0), ``unparsed`` (0: any text
        is an answer), ``protocol``, ``scores`` in the order of the answers.

    Raises:
        AnswerError: as of :func:`match`.
    """
    humans, protocol = match(annotations, answers)
    scores = [answer_score(answer["text"], given) for answer, given in zip(answers, humans, strict=True)]
    return {
        "accuracy": percent(math.fsum(scores), len(scores)),
        "n": len(scores),
        "missing": 0,
        "unparsed": 0,
        "protocol": f"{protocol}, leave-one-out",
        "scores": scores,
    }


def _prompt_name(prompts: Sequence[Prompted]) -> str:
    if not prompts:
        return "prompts of another layout"
    with_ocr = sum(prompt.ocr for prompt in prompts)
    ocr = "with OCR tokens" if with_ocr == len(prompts) else "OCR tokens in part" if with_ocr else "without OCR tokens"
    instructions = sorted({prompt.instruction for prompt in prompts})
    if instructions == [INSTRUCTION]:
        return f"{ocr}, single word or phrase"
    if len(instructions) > 1:
        return f"{ocr}, {len(instructions)} different instructions"
    return f"{ocr}, instruction {instructions[0]!r}" if instructions[0] else f"{ocr}, no instruction"
