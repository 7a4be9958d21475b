"""A checkpoint folder that cannot be loaded, said in one line. In: the folder. Out: its first damaged file, if any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.evaluation.answer_files import AnswerError, one_line
from toolkit.model_files import first_damaged


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """Turn what loading raises from a checkpoint's files into an ``AnswerError`` that names folder and file.

    The libraries raise errors of many types, without the file's name, and for a damaged ``tokenizer.json`` a plain
    ``Exception``; so JSON and weights are looked at first.
    """
    if found := first_damaged(folder):
        path, error = found
        raise AnswerError(f"model: {path} is damaged ({one_line(error)}); give a whole checkpoint")
    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise AnswerError(f"model: {folder} cannot be loaded ({one_line(error)}); give a whole checkpoint") from error
