"""Walks through the segments of a JPEG and the chunks of a PNG without decoding pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

JPEG_SCAN = 0xDA
PNG_START = b"\x89PNG\r\n\x1a\n"
_FILL = 0xFF


_segment = struct.Struct(">BBH").unpack_from
_frame = struct.Struct(">BHHB").unpack_from


class Frame(NamedTuple):
    """Start of a JPEG's frame header."""

    bits: int
    """Per channel."""
    height: int
    width: int
    components: int


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments of a JPEG up to its first scan.

    Args:
        data: the file, or its beginning.

    Yields:
        Marker, and begin and end of the content in ``data``, which has at least six bytes from the begin on. Ends early
        where the data end or hold no marker.
    """
    at, last = 2, len(data) - 11
    while at <= last:
        mark, marker, length = _segment(data, at)
        if mark != _FILL:
            return
        if marker == _FILL:
            at += 1
            continue
        yield marker, at + 4, at + 2 + length
        if marker == JPEG_SCAN:
            return
        at += 2 + length


def jpeg_frame(data: bytes, begin: int) -> Frame:
    """Read the frame header whose content begins at ``begin``."""
    return Frame._make(_frame(data, begin))


def png_chunks(file: IO[bytes], size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks of a PNG, reading only their 8-byte headers.

    Args:
        file: opened for reading in binary mode; its position changes.
        size: of the file, in bytes.

    Yields:
        Type, length of the content, and position of the chunk's end in the file, which may be beyond ``size``.
    """
    at = len(PNG_START)
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        at += 12 + length
        yield kind, length, at
