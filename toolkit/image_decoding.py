"""Scoped settings of Pillow's process-wide decoding limits. In: limits. Out: a context manager.

LOAD_TRUNCATED_IMAGES     False inside the context: a truncated image is an error, even if another library allowed it
MAX_IMAGE_PIXELS          at least the pixels of ``raise_ceilings``; Pillow refuses images with more than twice as many
MAX_TEXT_CHUNK, _MEMORY   at least the metadata bytes of ``raise_ceilings``, for a PNG's text and colour profile

A profile's limits are enforced where image headers are read. This module only stops Pillow from refusing what they
allow. Child processes inherit the ceilings through the environment variables ``BETTERSYNTH_MAX_PIXELS`` and
``BETTERSYNTH_MAX_METADATA_BYTES``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from PIL import Image, ImageFile, PngImagePlugin

PIXELS_VARIABLE = "BETTERSYNTH_MAX_PIXELS"
METADATA_VARIABLE = "BETTERSYNTH_MAX_METADATA_BYTES"


class _Ceilings(NamedTuple):
    pixels: int
    metadata_bytes: int


_NONE = _Ceilings(0, 0)


class _StrictDecoding:
    """Reentrant, thread-safe context: applies on the first entry, restores the previous values after the last exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved: tuple[bool, int | None, int, int] | None = None
        self._ceilings = [_Ceilings(int(os.environ.get(PIXELS_VARIABLE, 0)), int(os.environ.get(METADATA_VARIABLE, 0)))]
        """The ceilings of the process, followed by those of each active context."""

    def raise_ceilings(self, *, pixels: int, metadata_bytes: int) -> None:
        """Raise the ceilings of this process to at least these values; never lowers them."""
        with self._lock:
            before = self._ceilings[0]
            self._ceilings[0] = _Ceilings(max(before.pixels, pixels), max(before.metadata_bytes, metadata_bytes))
            self._set()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that pass the ceilings to a child process."""
        ceilings = self._ceilings[0]
        return {PIXELS_VARIABLE: str(ceilings.pixels), METADATA_VARIABLE: str(ceilings.metadata_bytes)}

    @contextmanager
    def allowing(self, *, pixels: int = 0, metadata_bytes: int = 0) -> Iterator[None]:
        """Enter the context with additional ceilings that apply until it exits."""
        ceilings = _Ceilings(pixels, metadata_bytes)
        self._enter(ceilings)
        try:
            yield
        finally:
            self._exit(ceilings)

    def __enter__(self) -> None:
        self._enter(_NONE)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._exit(_NONE)

    def _enter(self, ceilings: _Ceilings) -> None:
        with self._lock:
            if self._saved is None:
                text = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
                self._saved = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, *text)
            self._ceilings.append(ceilings)
            self._set()

    def _exit(self, ceilings: _Ceilings) -> None:
        with self._lock:
            assert self._saved is not None
            self._ceilings.remove(ceilings)
            self._set()
            if len(self._ceilings) == 1:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, *text = self._saved
                PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = text
                self._saved = None

    def _set(self) -> None:
        if self._saved is None:
            return
        _, pixels, chunk, memory = self._saved
        metadata = max(ceilings.metadata_bytes for ceilings in self._ceilings)
        most = max(ceilings.pixels for ceilings in self._ceilings)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        Image.MAX_IMAGE_PIXELS = None if pixels is None else max(pixels, most)
        PngImagePlugin.MAX_TEXT_CHUNK = max(chunk, metadata)
        PngImagePlugin.MAX_TEXT_MEMORY = max(memory, metadata)


strict_decoding = _StrictDecoding()
