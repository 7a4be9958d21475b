"""Images that are broken in a way that only decoding detects."""

from __future__ import annotations

import random
import struct
import zlib


def png_without_pixels() -> bytes:
    """Return a PNG of 40 by 40 pixels with valid checksums whose pixel data ends early."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0)
    pixels = zlib.compress(random.Random(0).randbytes(40 * 121))[:900]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
