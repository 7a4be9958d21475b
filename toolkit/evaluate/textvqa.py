"""TextVQA's metric. In: annotations and answers. Out: accuracy, and under which protocol.

Score of one answer: over the ten human answers, leave one out, min(1, matches among the other nine / 3), averaged.
Answers are joined with ``TextVQA_0.5.1_val.json`` on (image id, lower-cased question), the question being read off the
prompt, as in LLaVA's evaluation; or, when ``question_id`` is an annotation's own number, on that. The protocol names
version and split, whether prompts carried OCR tokens, and the instruction: figures of other protocols do not compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.evaluate.answer_files import AnswerError
from toolkit.evaluate.answer_processing import process_answer

__all__ = ["AnswerError", "Prompted", "answer_score", "evaluate", "match", "read_prompt"]

HUMANS = 10
INSTRUCTION = "Answer the question using a single word or phrase."
_OCR = "Reference OCR token:"
_OLD_FORM = re.compile(r"OCR tokens: .*?Question: (.*?) Short answer:", re.DOTALL)


class Prompted(NamedTuple):
    """What a prompt holds: the question, whether OCR tokens, and the instruction ("" without one)."""

    question: str
    ocr: bool
    instruction: str


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


def read_prompt(prompt: str) -> Prompted:
    """The parts of a prompt in one of the layouts that LLaVA's evaluation reads.

    These are question, instruction; question, OCR tokens, instruction; OCR tokens, question, instruction (a line each),
    and ``OCR tokens: … Question: … Short answer:``. A question alone is accepted too.

    Raises:
        AnswerError: the prompt has another layout.
    """
    old = _OLD_FORM.match(prompt)
    if old:
        return Prompted(old[1], True, "Short answer:")
    lines = prompt.removeprefix("<image>\n").rstrip("\n").split("\n")
    ocr = [line.startswith(_OCR) for line in lines]
    if len(lines) == 3 and sum(ocr[:2]) == 1:
        return Prompted(lines[1] if ocr[0] else lines[0], True, lines[2])
    if len(lines) <= 2 and not any(ocr):
        return Prompted(lines[0], False, lines[1] if len(lines) == 2 else "")
    raise AnswerError(f"no question found in the prompt {prompt!r}: expected question, OCR tokens, instruction")


def match(annotations: Path, answers: Iterable[Mapping[str, Any]]) -> tuple[list[Sequence[str]], str]:
    """Find the human answers to each answered question.

    Args:
        annotations: ``TextVQA_0.5.1_val.json`` or a file of its layout.
        answers: ``question_id`` and ``prompt`` of each.

    Returns:
        Ten human answers per answer, in order; name of the protocol.

    Raises:
        AnswerError: an annotated question without answer, or an answer more than there are questions.
    """
    data = json.loads(annotations.read_text("utf-8"))
    rows: list[dict[str, Any]] = data["data"]
    open_: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        open_.setdefault((str(row["image_id"]), row["question"].lower()), []).append(number)
    by_number = {str(row["question_id"]): number for number, row in enumerate(rows) if "question_id" in row}
    taken: set[int] = set()
    found, surplus, prompts = [], [], []
    for answer in answers:
        asked = read_prompt(answer["prompt"])
        prompts.append(asked)
        key = str(answer["question_id"])
        candidates = open_.get((key, asked.question.lower())) or ([by_number[key]] if key in by_number else [])
        number = next((n for n in candidates if n not in taken), -1)
        if number < 0:
            surplus.append((key, asked.question))
        else:
            taken.add(number)
            found.append(rows[number]["answers"])
    missing = [(row["image_id"], row["question"]) for number, row in enumerate(rows) if number not in taken]
    if missing or surplus:
        first = (missing or surplus)[0]
        raise AnswerError(
            f"{len(missing)} of {len(rows)} questions have no answer and {len(surplus)} answers belong to no question "
            f"or come twice; the first: image {first[0]!r}, question {first[1]!r}. No score over a part of the set"
        )
    splits = {str(row.get("set_name", data.get("dataset_type", "?"))) for row in rows}
    return found, f"TextVQA {data.get('dataset_version', '?')} {'+'.join(sorted(splits))}, {_prompt_name(prompts)}"


def evaluate(annotations: Path, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score a complete set of answers.

    Args:
        annotations: ``TextVQA_0.5.1_val.json`` or a file of its layout.
        answers: ``question_id``, ``prompt``, ``text`` of each.

    Returns:
        ``accuracy`` in percent, ``n``, ``missing`` (0), ``unparsed`` (0: any text is an answer), ``protocol``,
        ``scores`` in the order of the answers.

    Raises:
        AnswerError: as of :func:`match`.
    """
    humans, protocol = match(annotations, answers)
    scores = [answer_score(answer["text"], given) for answer, given in zip(answers, humans, strict=True)]
    return {
        "accuracy": 100 * sum(scores) / len(scores),
        "n": len(scores),
        "missing": 0,
        "unparsed": 0,
        "protocol": f"{protocol}, leave-one-out",
        "scores": scores,
    }


def _prompt_name(prompts: Sequence[Prompted]) -> str:
    with_ocr = sum(prompt.ocr for prompt in prompts)
    ocr = "with OCR tokens" if with_ocr == len(prompts) else "OCR tokens in part" if with_ocr else "without OCR tokens"
    instructions = sorted({prompt.instruction for prompt in prompts})
    if instructions == [INSTRUCTION]:
        return f"{ocr}, single word or phrase"
    if len(instructions) > 1:
        return f"{ocr}, {len(instructions)} different instructions"
    return f"{ocr}, instruction {instructions[0]!r}" if instructions[0] else f"{ocr}, no instruction"
