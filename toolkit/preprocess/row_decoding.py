"""Decoding of row files. In: a gzip, zstd or Parquet file. Out: the same rows as plain JSON Lines, written atomically.

Line ``n`` of the output is line or row ``n`` of the source. Files are decoded as a stream, so that memory use does not
depend on their size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.file_errors import environment_fault
from toolkit.files import replacing
from toolkit.preprocess.row_kinds import HEAD, PARQUET, RowFileError, refuse_other

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 4 * 2**20
_BATCH = 1024
KIT_COLUMNS, LLAVA_COLUMNS = ("text", "images"), ("image", "conversations")


def decode(path: Path, kind: str, target: Path) -> None:
    """Write the rows of a file as plain JSON Lines.

    Args:
        path: the source file.
        kind: one of ``row_kinds.DECODED``.
        target: the output file, replaced once all rows are written.

    Raises:
        RowFileError: the file is truncated or damaged, its content is not rows, or it is a table that lacks the columns
            of both known layouts or has columns that JSON cannot represent.
        EnvironmentFault: the disk of ``target`` is full, or the environment prevents access to either file.
    """
    try:
        with replacing(target) as partial, partial.open("wb") as file:
            for chunk in _table_lines(path) if kind == PARQUET else _decompressed(path, kind):
                file.write(chunk)
    except OSError as error:
        raise environment_fault(error, target) or error from error


def _decompressed(path: Path, kind: str) -> Iterator[bytes]:
    import pyarrow as pa

    try:
        with path.open("rb") as raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), kind) as stream:
            head = stream.read(_CHUNK)
            refuse_other(path, head[:HEAD], kind)
            while head:
                yield head
                head = stream.read(_CHUNK)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, kind, error) from None


def _table_lines(path: Path) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if not name.startswith("__index_level_")]
            _check_columns(path, table.schema_arrow, names)
            for batch in table.iter_batches(batch_size=_BATCH, columns=names):
                yield b"".join(_line(row) for row in batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, PARQUET, error) from None


def _damaged(path: Path, kind: str, error: Exception) -> Exception:
    # Arrow reports damaged bytes as an `OSError` without an error number.
    words = " ".join(str(error).split())
    fault = RowFileError(f"{path} is a truncated or damaged {kind} file ({words}): copy or download it again")
    return environment_fault(error, path) or fault


def _line(row: dict[str, Any]) -> bytes:
    present = {name: value for name, value in row.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"


def _check_columns(path: Path, schema: pa.Schema, names: list[str]) -> None:
    """Raise ``RowFileError`` for a table that has neither layout, or that holds bytes, which JSON cannot represent."""
    for name in names:
        if _holds_bytes(schema.field(name).type):
            what = "image bytes" if name in ("image", "images") else "bytes"
            raise RowFileError(
                f"{path}: column {name!r} holds {what} ({schema.field(name).type}): write each image to a file, and "
                "store its path, relative to this file's folder, in the column"
                if what == "image bytes"
                else f"{path}: column {name!r} holds {what}: remove the column"
            )
    if not any(set(columns) <= set(names) for columns in (KIT_COLUMNS, LLAVA_COLUMNS)):
        raise RowFileError(
            f"{path} has the columns {', '.join(names)}: rows need {' and '.join(KIT_COLUMNS)} (kit layout) or "
            f"{' and '.join(LLAVA_COLUMNS)} (LLaVA layout)"
        )


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
