"""Pillow's process-wide switches, set while an image is open and put back afterwards. In: limits. Out: a context.

LOAD_TRUNCATED_IMAGES     False inside: half an image is an error, even where another library has allowed it
MAX_IMAGE_PIXELS          at least the pixels of ``raise_ceilings``; Pillow refuses images of more than twice as many
MAX_TEXT_CHUNK, _MEMORY   at least the metadata bytes of ``raise_ceilings``, for a PNG's text and colour profile

The limits of a profile are enforced where headers are read; here Pillow is only kept from refusing what they allow.
Child processes take the ceilings over from the environment: ``BETTERSYNTH_MAX_PIXELS`` and
``BETTERSYNTH_MAX_METADATA_BYTES``.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from PIL import Image, ImageFile, PngImagePlugin

PIXELS_VARIABLE = "BETTERSYNTH_MAX_PIXELS"
METADATA_VARIABLE = "BETTERSYNTH_MAX_METADATA_BYTES"


class _StrictDecoding:
    """The switches are set while any thread is inside; what stood there before comes back after the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: tuple[bool, int | None, int, int] = (False, None, 0, 0)
        self._pixels = int(os.environ.get(PIXELS_VARIABLE, 0))
        self._metadata = int(os.environ.get(METADATA_VARIABLE, 0))

    def raise_ceilings(self, *, pixels: int, metadata_bytes: int) -> None:
        """Let later images have so many pixels and bytes of metadata; lower values than before change nothing."""
        with self._lock:
            self._pixels, self._metadata = max(self._pixels, pixels), max(self._metadata, metadata_bytes)
            if self._inside:
                self._set()

    def environment(self) -> dict[str, str]:
        """Variables by which a child process takes over the ceilings."""
        return {PIXELS_VARIABLE: str(self._pixels), METADATA_VARIABLE: str(self._metadata)}

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                text = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
                self._saved = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, *text)
                self._set()
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, *text = self._saved
                PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = text

    def _set(self) -> None:
        _, pixels, chunk, memory = self._saved
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        Image.MAX_IMAGE_PIXELS = None if pixels is None else max(pixels, self._pixels)
        PngImagePlugin.MAX_TEXT_CHUNK = max(chunk, self._metadata)
        PngImagePlugin.MAX_TEXT_MEMORY = max(memory, self._metadata)


strict_decoding = _StrictDecoding()
