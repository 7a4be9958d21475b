"""Inspects an image file's bytes before decoding. In: an open file. Out: a ``Structure``.

A truncated JPEG or PNG opens without an error, because only its header is read; decoding every file to find the few
broken ones would take most of the ingest's time. Both formats have an end marker, so only a file without one has to be
decoded.

Nearly every image of the contest's seed is a JPEG whose header holds only size and tables (799 of 800 examined). Such a
header is parsed here, in a fraction of the time that Pillow needs to open an image. Pillow reads all other headers, in
particular those with metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from bettersynth_assets.images.segments import JPEG_SCAN, PNG_START, jpeg_frame, jpeg_segments, png_chunks

HEAD = 4096  # one page: a plain JPEG's header is a few hundred bytes
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
JPEG_PLAIN = (0xC4, 0xDB, 0xDD, 0xE0)  # Huffman and quantisation tables, restart interval, JFIF
JPEG_MODES = {1: "L", 3: "RGB"}
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
    """Return width, height and mode if all segments before the first scan are plain."""
    size_and_mode = None
    for marker, begin, _ in jpeg_segments(head):
        if marker == JPEG_SCAN:
            return size_and_mode
        if marker in JPEG_FRAMES:
            frame = jpeg_frame(head, begin)
            if (
                size_and_mode
                or frame.bits != 8
                or frame.components not in JPEG_MODES
                or not frame.width
                or not frame.height
            ):
                return None
            size_and_mode = frame.width, frame.height, JPEG_MODES[frame.components]
        elif marker not in JPEG_PLAIN:
            return None
    return None


def _png(file: IO[bytes], size: int) -> Structure:
    metadata, seen_pixels, late_metadata = 0, False, False
    for kind, length, chunk_end in png_chunks(file, size):
        if kind == b"IEND":
            # Pillow reads (and limits) metadata after the pixels only while decoding.
            return Structure(suspicious=late_metadata or chunk_end > size, metadata_bytes=metadata)
        seen_pixels = seen_pixels or kind == b"IDAT"
        if kind not in PNG_DATA:
            metadata += length
            late_metadata = late_metadata or seen_pixels
    return Structure(suspicious=True, metadata_bytes=metadata)
