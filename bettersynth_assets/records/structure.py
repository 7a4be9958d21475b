"""Cheap look at an image file's bytes before any decoder sees them. In: an open file. Out: a ``Structure``.

A truncated JPEG or PNG opens without complaint, because only its header is read, and decoding every file to find the
few broken ones would take most of the ingest's time. Both formats say where they end, so only a file that does not end
there need be decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DATA = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"fdAT")


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What the bytes say about the file."""

    suspicious: bool
    """True where only decoding can tell whether the file is whole."""
    metadata_bytes: int = 0
    """Bytes in chunks that hold no pixels, as stored (compressed text counts with its compressed size)."""


def look(file: IO[bytes], size: int) -> Structure:
    """Judge a file by its first bytes, its last bytes and, for PNG, its chunk lengths.

    Args:
        file: opened for reading in binary mode; its position is moved.
        size: bytes in the file.
    """
    file.seek(0)
    start = file.read(len(PNG_START))
    if start.startswith(JPEG_START):
        file.seek(max(0, size - len(JPEG_END)))
        return Structure(suspicious=file.read() != JPEG_END)
    if start == PNG_START:
        return _png(file, size)
    return Structure(suspicious=True)


def _png(file: IO[bytes], size: int) -> Structure:
    """Walk a PNG's chunks, reading their 8-byte heads only."""
    metadata, seen_pixels, late_metadata = 0, False, False
    position = len(PNG_START)
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        position += 12 + length
        if kind == b"IEND":
            # Pillow reads metadata behind the pixels only while decoding, so only then can it refuse it.
            return Structure(suspicious=late_metadata or position > size, metadata_bytes=metadata)
        seen_pixels = seen_pixels or kind == b"IDAT"
        if kind not in PNG_DATA:
            metadata += length
            late_metadata = late_metadata or seen_pixels
    return Structure(suspicious=True, metadata_bytes=metadata)
