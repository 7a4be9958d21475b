"""A checkpoint folder that cannot be loaded, said in one line. In: the folder. Out: its first damaged file, if any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.evaluate.answer_files import AnswerError, one_line


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """Turn what loading raises from a checkpoint's files into an ``AnswerError`` that names folder and file.

    The libraries raise errors of many types, without the file's name, and for a damaged ``tokenizer.json`` a plain
    ``Exception``; so JSON and weights are looked at first.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise AnswerError(f"model: {path} is damaged ({one_line(error)}); give a whole checkpoint") from None
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise AnswerError(f"model: {path} is damaged ({one_line(error)}); give a whole checkpoint") from None
    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise AnswerError(
            f"model: {folder} cannot be loaded ({one_line(error)}); give a whole MGM checkpoint"
        ) from error
