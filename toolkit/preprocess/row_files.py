"""Files of rows. In: a path to JSON lines, one JSON array, either of them as gzip or zstd, or Parquet. Out: its rows.

What a file is follows from its first bytes, never from its name. Other kinds of file are refused with what they are
and what to do. Compressed files and Parquet are decoded once, as a stream, into plain JSON lines.
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
    """The file to read a row file's plain rows from.

    Args:
        path: the row file.
        decoded: where its plain rows are kept if it is compressed or Parquet; left as it is if it exists already.

    Returns:
        ``path`` itself if it is plain, else ``decoded``.

    Raises:
        RowFileError: another kind of file, or one that cannot be decoded.
    """
    kind = kind_of(path)
    if kind not in DECODED:
        return path
    if not decoded.is_file():
        decode(path, kind, decoded)
    return decoded


def raw_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    """The JSON of each row of a file, in order, with where it stands.

    Raises:
        RowFileError: a file that cannot be read, or a JSON array that is cut off.
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
    """Values of each row of a file, as ``row_lines.read_line`` reads them, with where it stands.

    Raises:
        RowFileError: a file or row that cannot be read; the message names the row.
    """
    for where, raw in raw_rows(path):
        try:
            values = read_line(raw)
        except RowError as error:
            raise RowFileError(f"{where}: {error.reason}: {error.detail}") from None
        yield where, values
