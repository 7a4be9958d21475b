"""TextVQA's annotations. In: ``TextVQA_0.5.1_val.json`` or a file of its layout. Out: checked rows.

::

    {"dataset_version": "0.5.1", "dataset_type": "val", "data": [
        {"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "…", "answers": [ten texts]}, …
    ]}

``question_id`` may be absent, and a row may have its own ``set_name``; null counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.questions.answer_files import AnswerError, decode_json, id_text

HUMANS = 10


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One question, its image and its ten human answers."""

    question_id: str | None
    image_id: str
    question: str
    answers: list[str]


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """All questions of a split; ``name`` is version and split."""

    rows: list[Annotation]
    name: str


def read_annotations(path: Path) -> Annotations:
    """Read and check an annotations file.

    Raises:
        AnswerError: another layout, a row without image, question or ten answers in text, or a duplicate question
            id; names file and row.
    """
    data = decode_json(path.read_bytes(), str(path))
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        found = f"an object with {', '.join(map(repr, data)) or 'no key'}" if isinstance(data, dict) else _kind(data)
        raise AnswerError(f"{path}: needs an object with a list 'data', as TextVQA_0.5.1_val.json; it is {found}")
    rows = [_annotation(row, f"{path}, row {number}") for number, row in enumerate(data["data"], start=1)]
    if not rows:
        raise AnswerError(f"{path}: 'data' holds no rows")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if row.question_id is not None and seen.setdefault(row.question_id, number) != number:
            first = seen[row.question_id]
            raise AnswerError(f"{path}, row {number}: question_id {row.question_id} is that of row {first} too")
    splits = {str(row.get("set_name") or data.get("dataset_type") or "?") for row in data["data"]}
    return Annotations(rows=rows, name=f"TextVQA {data.get('dataset_version') or '?'} {'+'.join(sorted(splits))}")


def _annotation(row: Any, where: str) -> Annotation:
    if not isinstance(row, dict):
        raise AnswerError(f"{where}: needs an object; it is {_kind(row)}")
    id_ = row.get("question_id")
    question_id = None if id_ is None else id_text(id_, where=f"{where}: 'question_id'")
    where = where if question_id is None else f"{where} (question_id {question_id})"
    question, answers = row.get("question"), row.get("answers")
    if not isinstance(question, str) or not question.strip():
        raise AnswerError(f"{where}: 'question' must be text; it is {_kind(question)}")
    if not isinstance(answers, list):
        hint = "; a test split has none, give a val file" if answers is None else ""
        raise AnswerError(f"{where}: 'answers' must be {HUMANS} texts; it is {_kind(answers)}{hint}")
    wrong = [answer for answer in answers if not isinstance(answer, str)]
    if wrong:
        raise AnswerError(f"{where}: 'answers' must be {HUMANS} texts; one is {_kind(wrong[0])}")
    if len(answers) != HUMANS:
        raise AnswerError(f"{where}: 'answers' holds {len(answers)} texts; the metric needs {HUMANS}")
    image_id = id_text(row.get("image_id"), where=f"{where}: 'image_id'")
    return Annotation(question_id=question_id, image_id=image_id, question=question, answers=answers)


def _kind(value: Any) -> str:
    """Kind of a JSON value, for error messages."""
    if value is None:
        return "missing or null"
    if isinstance(value, str):
        return "text" if value.strip() else "empty text"
    return {"dict": "an object", "list": "a list", "bool": "true or false"}.get(type(value).__name__, "a number")
