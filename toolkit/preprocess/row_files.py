"""Reader of row files. In: JSON Lines or one JSON array, plain or as gzip or zstd, or Parquet. Out: the rows.

The kind of a file is determined from its first bytes, never from its name. A file of another kind is an error that
names the kind and the fix. Compressed files and Parquet are decoded once, as a stream, to plain JSON Lines.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.preprocess.row_decoding import decode
from toolkit.preprocess.row_kinds import DECODED, RowFileError, kind_of
from toolkit.preprocess.row_lines import RowError, read_line, spans

__all__ = ["RowFileError", "plain_file", "raw_rows", "read_rows"]


def plain_file(path: Path, decoded: Path) -> Path:
    """Return a plain-text version of a row file; decode the file if necessary.

    Args:
        path: the row file.
        decoded: output file for the rows of a compressed or Parquet file; reused if it exists.

    Returns:
        ``path`` if it is plain text, else ``decoded``.

    Raises:
        RowFileError: the file is of another kind or cannot be decoded.
    """
    kind = kind_of(path)
    if kind not in DECODED:
        return path
    if not decoded.is_file():
        decode(path, kind, decoded)
    return decoded


def raw_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each row of a file as its location (``path, row number``) and its JSON, in order.

    Raises:
        RowFileError: the file cannot be read, or its JSON array is truncated.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_file(path, Path(folder) / "rows.jsonl")
        if plain.stat().st_size == 0:
            return
        with plain.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                for number, start, end in spans(data, len(data)):
                    yield f"{path}, row {number}", data[start:end]
            except RowError as error:
                raise RowFileError(f"{path}: {error.detail}") from None


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a file as its location and its values, as read by ``row_lines.read_line``.

    Raises:
        RowFileError: the file or a row cannot be read; the message names it.
    """
    for where, raw in raw_rows(path):
        try:
            values = read_line(raw)
        except RowError as error:
            raise RowFileError(f"{where}: {error.reason}: {error.detail}") from None
        yield where, values
