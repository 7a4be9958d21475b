"""Inspects an image file's bytes before decoding. In: an open file. Out: a ``Structure``.

A truncated JPEG or PNG opens without an error, because only its header is read; decoding every file to find the few
broken ones would take most of the ingest's time. Both formats have an end marker, so only a file without one has to be
decoded.

Nearly every image of the contest's seed is a JPEG whose header holds only size and tables (799 of 800 examined). Such a
header is parsed here, in a fraction of the time that Pillow needs to open an image. Pillow reads all other headers, in
particular those with metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

HEAD = 4096  # one page: a plain JPEG's header is a few hundred bytes
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
JPEG_SCAN = 0xDA
JPEG_PLAIN = (0xC4, 0xDB, 0xDD, 0xE0)  # Huffman and quantisation tables, restart interval, JFIF
JPEG_MODES = {1: "L", 3: "RGB"}
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DATA = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"fdAT")


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Result of the inspection."""

    suspicious: bool
    """True if only decoding can show whether the file is complete."""
    metadata_bytes: int = 0
    """Bytes in chunks without pixels, as stored (for compressed text, the compressed size)."""
    plain: tuple[int, int, str] | None = None
    """Width, height and Pillow's mode of a JPEG without metadata; None if Pillow must read the header."""


def inspect_file(file: IO[bytes], size: int) -> Structure:
    """Inspect a file's first and last bytes and, for PNG, its chunk lengths.

    Args:
        file: opened for reading in binary mode; its position changes.
        size: of the file, in bytes.
    """
    file.seek(0)
    head = file.read(HEAD)
    if head.startswith(JPEG_START):
        file.seek(max(0, size - len(JPEG_END)))
        return Structure(suspicious=file.read() != JPEG_END, plain=_plain_jpeg(head))
    if head.startswith(PNG_START):
        return _png(file, size)
    return Structure(suspicious=True)


def _plain_jpeg(head: bytes) -> tuple[int, int, str] | None:
    """Parse a JPEG's segments up to its first scan."""
    found = None
    position = 2
    while position + 10 <= len(head):
        mark, kind, length = struct.unpack_from(">BBH", head, position)
        if mark != 0xFF:
            return None
        if kind == JPEG_SCAN:
            return found
        if kind in JPEG_FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", head, position + 4)
            if found or bits != 8 or components not in JPEG_MODES or not width or not height:
                return None
            found = width, height, JPEG_MODES[components]
        elif kind not in JPEG_PLAIN:
            return None
        position += 2 + length
    return None


def _png(file: IO[bytes], size: int) -> Structure:
    """Parse a PNG's chunks, reading only their 8-byte headers."""
    metadata, seen_pixels, late_metadata = 0, False, False
    position = len(PNG_START)
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        position += 12 + length
        if kind == b"IEND":
            # Pillow reads (and limits) metadata after the pixels only while decoding.
            return Structure(suspicious=late_metadata or position > size, metadata_bytes=metadata)
        seen_pixels = seen_pixels or kind == b"IDAT"
        if kind not in PNG_DATA:
            metadata += length
            late_metadata = late_metadata or seen_pixels
    return Structure(suspicious=True, metadata_bytes=metadata)
