"""Plain JPEG files read by processes of their own. In: paths. Out: their bytes, in memory that both sides see.

A fast model leaves some sixty microseconds for a row, and a process's threads share them: opening, reading and looking
at a file would take half. Files go into the slots of one block of memory, which are used again and again: new memory
for each would cost more than reading.
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
from typing import Any, NamedTuple

from toolkit.worker_pools import MOST_ATTEMPTS, WorkerKilledError

LARGEST = 1024
"""Pixels of the longest side that is plain: larger images would make those beside them costly."""
PROCESSES = max(1, min(6, (os.cpu_count() or 1) // 2))
SLOTS = 2 * PROCESSES
SLOT = 32 * 2**20
"""Bytes that files read together may have; a file for which no room is left is not plain."""
_BASELINE, _SCAN = 0xC0, 0xDA
_TABLES = (0xDB, 0xC4)
"""Quantisation and Huffman tables. Without them nvJPEG decodes to other pixels and reports no error."""
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
"""4:4:4, 4:2:2 and 4:2:0: how many samples each component has, across and down, in a byte each"""


class Place(NamedTuple):
    """Where a plain file lies in its slot, and the image's size."""

    begin: int
    end: int
    width: int
    height: int


def read_plain(parts: Sequence[Sequence[str]]) -> Iterator[tuple[Any, list[Place | None]]]:
    """Read files, some parts ahead.

    Args:
        parts: paths of the files that come together.

    Yields:
        For each part its slot, (SLOT,) uint8, which is good until the part after the next is asked for; and for each
        path its place in there, None where the file is not plain.
    """
    done, killed = 0, 0
    while done < len(parts):
        try:
            with closing(_read_ahead(parts[done:])) as readings:
                for reading in readings:
                    done += 1
                    yield reading
        except BrokenProcessPool:  # a reader was killed; its part is read again by others
            _readers.cache_clear()
            killed += 1
            if killed == MOST_ATTEMPTS:
                raise WorkerKilledError("reading of images", killed) from None


def _read_ahead(parts: Sequence[Sequence[str]]) -> Generator[tuple[Any, list[Place | None]], None, None]:
    import torch

    pool, memory, block = _readers()
    slots = torch.frombuffer(block, dtype=torch.uint8).view(SLOTS, SLOT)
    if torch.cuda.is_initialized() and not slots.is_pinned():  # the GPU then takes files without a copy in between
        torch.cuda.cudart().cudaHostRegister(slots.data_ptr(), slots.nbytes, 0)
    waiting: deque[tuple[int, Future[list[Place | None]]]] = deque()
    try:
        for number in range(len(parts)):
            for ahead in range(number + len(waiting), min(number + SLOTS - 1, len(parts))):
                slot = ahead % SLOTS
                waiting.append((slot, pool.submit(_read, os.getpid(), memory, slot, list(parts[ahead]))))
            slot, read = waiting.popleft()
            yield slots[slot], read.result()
    finally:
        wait([read for _, read in waiting])  # none may write into a slot that the next caller is given


@cache
def _readers() -> tuple[ProcessPoolExecutor, int, mmap.mmap]:
    """The processes, started at first use and ended with this one, and the memory with its descriptor."""
    memory = os.memfd_create("jpeg-files")
    os.ftruncate(memory, SLOTS * SLOT)
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(PROCESSES, context, initializer=_end_with_parent)
    return pool, memory, mmap.mmap(memory, SLOTS * SLOT)


def _end_with_parent() -> None:
    """The pool's own workers would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=2)
def _block(process: int, memory: int) -> mmap.mmap:
    """The memory, in a reader."""
    file = os.open(f"/proc/{process}/fd/{memory}", os.O_RDWR)
    try:
        return mmap.mmap(file, SLOTS * SLOT)
    finally:
        os.close(file)


def _read(process: int, memory: int, slot: int, paths: Sequence[str]) -> list[Place | None]:
    """In a reader: put files into a slot."""
    room = memoryview(_block(process, memory))[slot * SLOT : (slot + 1) * SLOT]
    places: list[Place | None] = []
    at = 0
    for path in paths:
        data = _bytes(path, SLOT - at)
        size = plain_size(data) if data else None
        places.append(None if size is None or data is None else Place(at, at + len(data), *size))
        if size is not None and data is not None:
            room[at : at + len(data)] = data
            at += len(data)
    return places


def _bytes(path: str, most: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        size = os.fstat(file).st_size
        data = os.read(file, size) if size <= most else b""
        return data if len(data) == size else None
    except OSError:
        return None
    finally:
        os.close(file)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a whole JPEG file that nvJPEG decodes as Pillow does; None for every other."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", max(0, len(data) - 64)) < 0:
        return None  # not a JPEG, or its end is missing
    at, size, components = 2, None, 0
    tables = set(_TABLES)
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling
            at += 1
            continue
        tables.discard(marker)
        if marker == _SCAN:  # of all components, or there are more scans behind it
            return size if data[at + 4] == components and not tables else None
        if marker == _BASELINE:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            components = data[at + 9]
            is_plain = data[at + 4] == 8 and _is_grey_or_ycbcr(data[at + 9 : at + 2 + length])
            size = (width, height) if is_plain and 0 < width <= LARGEST and 0 < height <= LARGEST else None
        # APP1 holds the rotation; APP14 may say that the colours are RGB or CMYK.
        elif marker in (0xE1, 0xEE, 0xD9) or marker in _OTHER_FRAMES:
            return None
        at += 2 + length
    return None


def _is_grey_or_ycbcr(components: bytes) -> bool:
    """Of a frame header from its number of components on: three bytes for each, its id first, then its samples."""
    is_ycbcr = components[0] == 3 and components[1::3][:3] != b"RGB"
    return components[0] == 1 or (is_ycbcr and components[2::3][:3] in _SAMPLINGS)
