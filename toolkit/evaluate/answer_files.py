"""Reads files of questions and of answers. In: JSON lines of this toolkit, of LLaVA or of MGM. Out: checked rows.

LLaVA's layouts, which MGM's scripts write too: for TextVQA ``question_id`` (the image's id), ``prompt``, ``text``,
``answer_id``, ``model_id``, ``metadata``; for MMBench also ``round_id``, ``options``, ``option_char``, and there
``prompt`` lacks the instruction. Only what a score needs is asked for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.files import read_json_lines


class AnswerError(ValueError):
    """Answers that cannot be scored: missing, surplus, or belonging to no question. Says how many and which first."""


def read_lines(path: Path, keys: Sequence[str], *, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read JSON lines; blank ones are skipped.

    Args:
        keys: each row must have them.
        texts: those of the keys whose values must be text.

    Raises:
        AnswerError: no rows, a line that is no JSON object, a key that is missing; file, line and key are named.
    """
    rows = []
    for where, row in read_json_lines(path, lambda at, e: AnswerError(f"{at}: no JSON ({e}); was the file cut off?")):
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            found = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) else "it is no object"
            raise AnswerError(f"{where}: {missing[0]!r} is missing; {found}")
        wrong = [key for key in texts if not isinstance(row[key], str)]
        if wrong:
            raise AnswerError(f"{where}: {wrong[0]!r} is no text but {row[wrong[0]]!r}")
        rows.append(row)
    if not rows:
        raise AnswerError(f"{path}: holds no rows")
    return rows
