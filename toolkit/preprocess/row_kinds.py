"""Detection of a row file's format. In: the first bytes of a file. Out: its format, or an error that names the fix."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from toolkit.file_errors import patiently

GZIP, ZSTD, PARQUET, PLAIN = "gzip", "zstd", "Parquet", "plain"
DECODED = (GZIP, ZSTD, PARQUET)
"""Kinds that must be decoded before they are read."""
HEAD = 1024
_USE = "use JSON Lines or one JSON array, plain or compressed with gzip or zstd, or Parquet"
_EXPORT = "export the table as Parquet or JSON Lines"
_UNPACK = "unpack it and give the path of the file with the rows; image paths are relative to that file's folder"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_REFUSED: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, fix)
    for pattern, what, fix in (
        (rb".{257}ustar", "a tar archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
        (rb"BZh[1-9]", "compressed with bzip2", "decompress it with `bunzip2`, or compress it with gzip or zstd"),
        (rb"\xfd7zXZ\x00", "compressed with xz", "decompress it with `unxz`, or compress it with gzip or zstd"),
        (rb"\x04\x22\x4d\x18", "compressed with lz4", "decompress it with `unlz4`, or compress it with gzip or zstd"),
        (rb"ARROW1|FEA1|\xff\xff\xff\xff.{4}", "an Arrow IPC or Feather file", "write the table as Parquet"),
        (rb"Obj\x01", "an Avro file", "write the table as Parquet"),
        (rb"(?-i:ORC)", "an ORC file", "write the table as Parquet"),
        (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff|[\[{]\x00\x00\x00|\x00\x00\x00[\[{]", "UTF-32 text",
         "convert it: `iconv -f UTF-32 -t UTF-8`"),
        (rb"\xff\xfe[^\x00]\x00|\xfe\xff\x00[^\x00]|[\[{]\x00|\x00[\[{]", "UTF-16 text",
         "convert it: `iconv -f UTF-16 -t UTF-8`"),
        (rb"version https://git-lfs\.github\.com", "a git-lfs pointer and not the file itself",
         "fetch the file: `git lfs pull`"),
        (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body)", "an HTML page, probably the error page of a download",
         "download the file again"),
        (rb"(?:\xef\xbb\xbf)?\s*<\?xml|(?:\xef\xbb\xbf)?\s*<error>", "an XML document, perhaps a download error",
         _USE),
        (rb"\x80[\x02-\x05]", "a Python pickle, which can run code and is never loaded", _USE),
        (rb"\x93NUMPY", "a NumPy array", _USE),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _USE),
        (rb"SQLite format 3\x00", "an SQLite database", _USE),
        (rb"%PDF-", "a PDF document", _USE),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Office file", _EXPORT),
        (rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF.{4}WEBP", "an image", "give the path of the file with the rows"),
        (rb"\x7fELF", "a program", _USE),
        (rb"\x00{64}", "filled with zero bytes, probably an incomplete download", "download the file again"),
    )
)  # fmt: skip
_COLUMNS = re.compile(
    rb'(?:\xef\xbb\xbf)?(?=[^\n]*[,;\t])[^\[{\n]*?\b(?:id|text|images?|caption|conversations)"?[ \t]*[,;\t\r\n]',
    re.IGNORECASE,
)


class RowFileError(ValueError):
    """A file whose rows cannot be read; the message names the file, its kind and the fix."""


def kind_of(path: Path) -> str:
    """Return the kind of a file: ``plain`` or one of ``DECODED``.

    Raises:
        RowFileError: the file does not exist or is of a known unsupported kind.
        EnvironmentFault: the environment prevents access to the file.
    """
    try:
        head = patiently(lambda: _head(path), path, seen=False)
    except OSError as error:
        raise RowFileError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"\x1f\x8b"):
        return GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd") or _ZSTD_SKIPPABLE.match(head):
        return ZSTD
    if head.startswith(b"PAR1"):
        return PARQUET
    refuse_other(path, head)
    return PLAIN


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def refuse_other(path: Path, head: bytes, inside: str = "") -> None:
    """Raise an error for a file of a known unsupported kind.

    Args:
        path: the file, for the message.
        head: the first bytes of the file, or of its decompressed content.
        inside: the compression, e.g. ``gzip``, if ``head`` was decompressed.

    Raises:
        RowFileError: the message names the kind and the fix.
    """
    what, fix = known_kind(path, head) or ("", "")
    if not what and _COLUMNS.match(head):
        what, fix = "a table of separated values (CSV)", "convert it to JSON Lines or Parquet, with lists as lists"
    if not what and inside and head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1")):
        what, fix = "compressed twice, or a compressed Parquet file", "decompress it once"
    if what:
        place = f"{path}, decompressed from {inside}, is " if inside else f"{path} is "
        raise RowFileError(f"{place}{what}: {fix}")


def known_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """Return the description and the fix of an unsupported kind of file; None for an unknown kind."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    return next(((what, fix) for pattern, what, fix in _REFUSED if pattern.match(head)), None)


def _zip_kind(path: Path) -> tuple[str, str]:
    # The archive is listed, never unpacked.
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if "xl/workbook.xml" in names:
        return "an Excel workbook", _EXPORT
    return "a ZIP archive", _UNPACK
