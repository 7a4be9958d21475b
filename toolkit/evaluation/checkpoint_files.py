"""Errors of a checkpoint that cannot be loaded, on one line. In: its folder. Out: an ``AnswerError`` with the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.model_files import first_damaged
from toolkit.questions.answer_files import AnswerError, one_line


@contextmanager
def naming_damaged_files(folder: Path) -> Iterator[None]:
    """Convert errors of loading a checkpoint into an ``AnswerError`` that names folder and file.

    JSON files and weights are checked first, because the libraries raise errors of many types without the file's name,
    for a damaged ``tokenizer.json`` even a plain ``Exception``.
    """
    if damage := first_damaged(folder):
        path, error = damage
        raise AnswerError(f"model: {path} is damaged ({one_line(error)}); give a whole checkpoint")
    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise AnswerError(f"model: {folder} cannot be loaded ({one_line(error)}); give a whole checkpoint") from error
