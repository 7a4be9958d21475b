"""Reads question and answer files. In: JSON lines of this toolkit, of LLaVA or of MGM. Out: checked rows.

Keys in LLaVA's layout, which MGM's scripts also write: for TextVQA ``question_id`` (the image's id), ``prompt``,
``text``, ``answer_id``, ``model_id``, ``metadata``; for MMBench also ``round_id``, ``options``, ``option_char``, and
there ``prompt`` lacks the instruction. Only keys that scoring needs are required.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.files import numbered_lines

DECIMALS = 8
"""Decimals of values in percent: more than 10,000 questions can resolve, fewer than the rounding error of a float."""


class AnswerError(ValueError):
    """Benchmark files or answers that cannot be used; the message names the file, the row and the fault."""


def read_lines(path: Path, keys: Sequence[str], *, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read JSON lines; blank lines are skipped.

    Args:
        keys: required in each row. An id (``question_id``) may be text or a whole number and is returned unchanged.
        texts: the keys whose values must be text.

    Raises:
        AnswerError: no rows, a line that is not a JSON object, or a missing key; names file, line and key.
    """
    rows = []
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        row = decode_json(line, where)
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            found = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) else "it is no object"
            raise AnswerError(f"{where}: {missing[0]!r} is missing; {found}")
        wrong = [key for key in texts if not isinstance(row[key], str)]
        if wrong:
            raise AnswerError(f"{where}: {wrong[0]!r} is no text but {row[wrong[0]]!r}")
        if "question_id" in keys:
            id_text(row["question_id"], where=f"{where}: 'question_id'")
        rows.append(row)
    if not rows:
        raise AnswerError(f"{path}: holds no rows")
    return rows


def decode_json(data: bytes, where: str) -> Any:
    """Decode JSON strictly: UTF-8, no duplicate keys, no NaN.

    Args:
        data: a whole file or one line; a leading byte order mark is skipped.
        where: prefix of error messages.

    Raises:
        AnswerError: the bytes are not such JSON.
    """
    try:
        text = data.decode("utf-8-sig")
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise AnswerError(f"{where}: no UTF-8 (byte {error.start}: {error.reason})") from None
    except UnicodeEncodeError:
        raise AnswerError(f"{where}: half of a surrogate pair in its text") from None
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"{where}: no JSON ({error}); was the file cut off?") from None
    return value


def id_text(value: object, *, where: str) -> str:
    """Normalise an id to text: 7, 7.0 and "7" are the same id.

    Args:
        where: prefix of error messages.

    Raises:
        AnswerError: null, empty, or neither text nor a whole number.
    """
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise AnswerError(f"{where} must be text or a whole number; found {json.dumps(value)}")


def relative_image(image: str, where: str) -> str:
    """Check that an image path from a file stays inside the folder of images; returns it.

    Raises:
        AnswerError: an empty or absolute path, a path with ``..``, or a URL; the message begins with ``where``.
    """
    path = PurePosixPath(image)
    if not image.strip() or path.is_absolute() or ".." in path.parts or "://" in image or "\0" in image:
        raise AnswerError(f"{where}: image {image!r} must be a path inside the folder of images")
    return image


def one_line(error: Exception) -> str:
    """An error's message on one line; for an OS error, file and reason."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split())


def percent(part: float, whole: int) -> float:
    """``part / whole`` in percent, rounded to ``DECIMALS``."""
    return round(100 * part / whole, DECIMALS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=False)
