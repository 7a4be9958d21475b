"""Row parser. In: the bytes of a JSONL file or of one JSON array. Out: the byte span of each row, and its values.

Seed files, questions files and the kit's commands all use this parser.

A row is a line (JSONL) or an element (JSON array); the first byte of the file decides which. Row boundaries are found
in the bytes before any row is decoded, so that an invalid row does not affect its neighbours. Only ``\\n`` ends a line.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from toolkit.preprocess.row_ids import row_id

NOT_BLANK = re.compile(rb"[^ \t\r\n\v\f]")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_PARTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},]', re.DOTALL)
LINE_REASONS = ("invalid_utf8", "invalid_json", "not_an_object", "duplicate_key", "nan", "bad_id", "duplicate_id")
"""Reasons for which a line counts as bad. A file with too many bad lines is refused."""


class RowError(ValueError):
    """A row that cannot be used; ``reason`` is its code in the quarantine table, ``detail`` describes the fault."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = printable(detail)
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def printable(text: str) -> str:
    """Escape lone surrogates as ``\\udXXX``, so that the text can be stored and printed as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Span(NamedTuple):
    """The position of a row in its file."""

    number: int
    """1-based line number, or 1-based position in the JSON array."""
    start: int
    end: int


def spans(data: bytes | mmap.mmap, size: int) -> Iterator[Span]:
    """Find every row; skip blank lines.

    Args:
        data: bytes or a memory map of the file.
        size: its length in bytes.

    Raises:
        RowError: ``invalid_json`` if a JSON array is not closed.
    """
    start = len(BYTE_ORDER_MARK) if data[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else 0
    return _elements(data, start) if _is_array(data, start, size) else _lines(data, start, size)


def _is_array(data: bytes | mmap.mmap, start: int, size: int) -> bool:
    """Return whether the file is one JSON array, and not a JSONL file whose first row is an array by mistake."""
    first = NOT_BLANK.search(data, start)
    if first is None or first.group() != b"[":
        return False
    end = data.find(b"\n", first.start())
    if end < 0 or NOT_BLANK.search(data, end) is None:
        return True
    try:
        json.loads(data[first.start() : end])
    except (ValueError, RecursionError):
        return True
    return False


def _lines(data: bytes | mmap.mmap, start: int, size: int) -> Iterator[Span]:
    number = 0
    while start < size:
        end = data.find(b"\n", start)
        end = size if end < 0 else end
        number += 1
        if NOT_BLANK.search(data, start, end):
            yield Span(number, start, end)
        start = end + 1


def _elements(data: bytes | mmap.mmap, start: int) -> Iterator[Span]:
    """Yield the elements of a JSON array, found by its commas: ``[ {...}, {...} ]``."""
    depth, number, begin = 0, 0, start
    for part in JSON_PARTS.finditer(data, start):
        sign = part.group()
        if depth == 1 and sign in (b",", b"]"):
            # `[]` has no element, and so no span; after a comma there is one, even if it is blank.
            if sign == b"," or number or NOT_BLANK.search(data, begin, part.start()):
                number += 1
                yield Span(number, begin, part.start())
            begin = part.end()
        depth += (sign in (b"{", b"[")) - (sign in (b"}", b"]"))
        if depth == 1 and number == 0 and sign == b"[":
            begin = part.end()
        if depth == 0:
            if NOT_BLANK.search(data, part.end()) is None:
                return
            break
    raise RowError("invalid_json", f"the JSON array is not closed, or is closed too early, near byte {begin}")


def read_line(raw: bytes) -> dict[str, Any]:
    """Parse one row strictly. Keys whose value is null are removed at every depth.

    Returns:
        The JSON object. ``id`` is a non-empty string; a missing id is derived from the content.

    Raises:
        RowError: the row is invalid; ``reason`` is one of ``LINE_REASONS``.
    """
    try:
        text = raw.decode("utf-8")
        values = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except RowError:
        raise
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", f"byte {error.start} of the row: {error.reason}") from None
    except UnicodeEncodeError as error:
        raise RowError("invalid_utf8", f"half of a surrogate pair: {error.object[error.start]!a}") from None
    except (ValueError, RecursionError) as error:
        raise RowError("invalid_json", f"{error}: {text[:80]!r}") from None
    if not isinstance(values, dict):
        raise RowError("not_an_object", f"{type(values).__name__}: {text[:80]!r}")
    given = values.get("id")
    if (found := row_id(values)) is None:
        fault = "the row has no `id`, and neither image nor text to derive one from"
        raise RowError(
            "bad_id", fault if given is None else f"`id` must be a string or a whole number, found {given!r}"
        )
    values["id"] = found
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RowError("duplicate_key", f"duplicate keys in one object: {', '.join(twice)}")
    if None in values.values():
        return {name: value for name, value in pairs if value is not None}
    return values


def _no_constant(name: str) -> None:
    raise RowError("nan", f"{name} is not JSON")


# strict=False accepts control characters inside a caption.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=False)
