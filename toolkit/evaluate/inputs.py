"""The files of both benchmarks, checked. In: paths. Out: questions as a model is asked them, and where pictures are.

Whatever can be wrong with the files is found here, before a model is loaded: ``read_textvqa`` and ``read_mmbench``
check all text, ``first_broken_image`` looks at the pictures. No torch is imported, so that a pipeline can check the
files before it trains the model that is to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from toolkit.evaluate import textvqa
from toolkit.evaluate.answer_files import AnswerError, read_lines
from toolkit.evaluate.image_check import first_broken
from toolkit.evaluate.prompt_text import clean_prompt

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of TextVQA: ``id`` is the file's ``question_id`` as it stands there, ``text`` the whole prompt."""

    id: str | int
    image: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """What is asked; a benchmark that is left out is None.

    Args:
        textvqa: questions in the file's order.
        mmbench: the table, its texts without image tokens.
        pictures: bytes of MMBench's pictures by index.
    """

    textvqa: list[Question] | None
    mmbench: pd.DataFrame | None
    pictures: dict[str, bytes]


def read_benchmarks(
    *, questions: Path | None, annotations: Path | None, images: Path | None, mmbench: Path | None
) -> Benchmarks:
    """Read and check the files of both benchmarks, all but the pictures' bytes.

    Raises:
        AnswerError: a file that cannot be used; names the file and the question.
    """
    asked = read_textvqa(questions, annotations, images) if questions and annotations and images else None
    table, pictures = read_mmbench(mmbench) if mmbench else (None, {})
    return Benchmarks(textvqa=asked, mmbench=table, pictures=pictures)


def read_textvqa(questions: Path, annotations: Path, images: Path) -> list[Question]:
    """Read the questions in LLaVA's layout and hold them against the annotations.

    Raises:
        AnswerError: rows that cannot be used, or questions and annotations that do not belong together.
    """
    if not images.is_dir():
        raise AnswerError(f"textvqa_images: {str(images)!r} is no folder")
    found = []
    for row in read_lines(questions, ("question_id", "image", "text"), texts=("image", "text")):
        where = f"{questions}, question {row['question_id']}"
        text = clean_prompt(row["text"], where=where)
        if not text.strip():
            raise AnswerError(f"{where}: its text is empty")
        found.append(Question(id=row["question_id"], image=images / _relative(row["image"], where), text=text))
    textvqa.match(annotations, [{"question_id": question.id, "prompt": question.text} for question in found])
    return found


def _relative(image: str, where: str) -> str:
    path = PurePosixPath(image)
    if not image.strip() or path.is_absolute() or ".." in path.parts or "://" in image or "\0" in image:
        raise AnswerError(f"{where}: image {image!r} must be a path inside the folder of images")
    return image


def read_mmbench(path: Path) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """Read the benchmark's table and its pictures' bytes by index.

    Raises:
        AnswerError: a table that cannot be used; names the file and the question.
    """
    from toolkit.evaluate import mmbench

    table = mmbench.read_table(path)
    try:
        mmbench.check_answers(table)
        return mmbench.clean_questions(table), mmbench.pictures(table)
    except AnswerError as error:
        raise AnswerError(f"{path}: {error}") from None


def first_broken_image(benchmarks: Benchmarks) -> tuple[str, str] | None:
    """Id of a question and the fault of its picture; None where all can be decoded (see ``image_check``)."""
    files = [(str(question.id), question.image) for question in benchmarks.textvqa or ()]
    return first_broken([*files, *benchmarks.pictures.items()])


def answer_rows(questions: Sequence[Question], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of an answers file of TextVQA: ``question_id``, ``prompt``, ``text``."""
    rows = zip(questions, answers, strict=True)
    return [{"question_id": question.id, "prompt": question.text, "text": text} for question, text in rows]
