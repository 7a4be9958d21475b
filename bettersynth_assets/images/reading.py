"""Reads plain JPEG files in separate processes. In: paths. Out: their bytes, in shared memory.

A fast model leaves about sixty microseconds per row, which all threads of a process share; opening, reading and
checking a file would take half of that. Files are read into the slots of one block of memory, which are reused:
allocating memory for each file would cost more than reading it.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bettersynth_assets.images.segments import JPEG_SCAN, Frame, jpeg_frame, jpeg_segments
from toolkit.worker_pools import MOST_ATTEMPTS, WorkerKilledError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1024
"""Longest side of a plain image, in pixels: larger images would slow down the rest of their batch."""
PROCESSES = max(1, min(6, (os.cpu_count() or 1) // 2))
SLOTS = 2 * PROCESSES
SLOT = 32 * 2**20
"""Bytes of a slot, for files that are read together; a file that does not fit any more counts as not plain."""
_BASELINE = 0xC0
_TABLES = (0xDB, 0xC4)
"""Quantisation and Huffman tables. Without them, nvJPEG returns different pixels and reports no error."""
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
"""4:4:4, 4:2:2 and 4:2:0: sampling factors of each component, horizontal and vertical, one byte per component."""


class Span(NamedTuple):
    """Position of a plain file in its slot, and the image's size."""

    begin: int
    end: int
    width: int
    height: int


def read_plain(groups: Sequence[Sequence[str]]) -> Iterator[tuple[Tensor, list[Span | None]]]:
    """Read files, several groups ahead of the caller.

    Args:
        groups: paths of files, grouped by the slot that they are read into.

    Yields:
        For each group, its slot, (SLOT,) uint8, and for each path its span in the slot, or None if the file is not
        plain. A slot is valid until the group after the next one is requested.
    """
    finished, killed = 0, 0
    while finished < len(groups):
        try:
            with closing(_read_ahead(groups[finished:])) as readings:
                for group in readings:
                    finished += 1
                    yield group
        except BrokenProcessPool:  # a reader was killed: new readers read its group again
            _readers.cache_clear()
            killed += 1
            if killed == MOST_ATTEMPTS:
                raise WorkerKilledError("reading of images", killed) from None


def _read_ahead(groups: Sequence[Sequence[str]]) -> Generator[tuple[Tensor, list[Span | None]], None, None]:
    import torch

    pool, memory, block = _readers()
    slots = torch.frombuffer(block, dtype=torch.uint8).view(SLOTS, SLOT)
    if torch.cuda.is_initialized() and not slots.is_pinned():  # page-lock, to avoid a copy on the way to the GPU
        torch.cuda.cudart().cudaHostRegister(slots.data_ptr(), slots.nbytes, 0)
    waiting: deque[tuple[int, Future[list[Span | None]]]] = deque()
    try:
        for number in range(len(groups)):
            for ahead in range(number + len(waiting), min(number + SLOTS - 1, len(groups))):
                slot = ahead % SLOTS
                waiting.append((slot, pool.submit(_read_into_slot, os.getpid(), memory, slot, list(groups[ahead]))))
            slot, reading = waiting.popleft()
            yield slots[slot], reading.result()
    finally:
        wait([reading for _, reading in waiting])  # no reader may write into a slot that the next caller uses


@cache
def _readers() -> tuple[ProcessPoolExecutor, int, mmap.mmap]:
    """Start the reader processes, once; return them with the descriptor and the mapping of the shared memory."""
    memory = os.memfd_create("jpeg-files")
    os.ftruncate(memory, SLOTS * SLOT)
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(PROCESSES, context, initializer=_end_with_parent)
    return pool, memory, mmap.mmap(memory, SLOTS * SLOT)


def _end_with_parent() -> None:
    """Exit when the parent exits; a pool's workers would wait forever for a killed parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=2)
def _block(process: int, memory: int) -> mmap.mmap:
    """Map the shared memory in a reader."""
    file = os.open(f"/proc/{process}/fd/{memory}", os.O_RDWR)
    try:
        return mmap.mmap(file, SLOTS * SLOT)
    finally:
        os.close(file)


def _read_into_slot(process: int, memory: int, slot: int, paths: Sequence[str]) -> list[Span | None]:
    """Read files into a slot; runs in a reader."""
    room = memoryview(_block(process, memory))[slot * SLOT : (slot + 1) * SLOT]
    spans: list[Span | None] = []
    offset = 0
    for path in paths:
        data = _file_bytes(path, SLOT - offset)
        size = plain_size(data) if data else None
        spans.append(None if size is None or data is None else Span(offset, offset + len(data), *size))
        if size is not None and data is not None:
            room[offset : offset + len(data)] = data
            offset += len(data)
    return spans


def _file_bytes(path: str, limit: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        size = os.fstat(file).st_size
        data = os.read(file, size) if size <= limit else b""
        return data if len(data) == size else None
    except OSError:
        return None
    finally:
        os.close(file)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a complete JPEG file that nvJPEG decodes like Pillow; None for any other file."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", max(0, len(data) - 64)) < 0:
        return None  # not a JPEG, or its end is missing
    size, components = None, 0
    tables = set(_TABLES)
    for marker, begin, end in jpeg_segments(data):
        tables.discard(marker)
        if marker == JPEG_SCAN:  # a scan without all components is followed by more scans
            return size if data[begin] == components and not tables else None
        if marker == _BASELINE:
            frame = jpeg_frame(data, begin)
            components = frame.components
            is_plain = frame.bits == 8 and _is_grey_or_ycbcr(data[begin + 5 : end])
            size = (frame.width, frame.height) if is_plain and _has_supported_size(frame) else None
        # APP1 may hold a rotation; APP14 may declare RGB or CMYK.
        elif marker in (0xE1, 0xEE, 0xD9) or marker in _OTHER_FRAMES:
            return None
    return None


def _has_supported_size(frame: Frame) -> bool:
    return 0 < frame.width <= LARGEST and 0 < frame.height <= LARGEST


def _is_grey_or_ycbcr(components: bytes) -> bool:
    """Check a frame header, from its component count on: per component an id, sampling factors and a table number."""
    is_ycbcr = components[:1] == b"\x03" and components[1::3][:3] != b"RGB"
    return components[:1] == b"\x01" or (is_ycbcr and components[2::3][:3] in _SAMPLINGS)
