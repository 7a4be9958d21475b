"""Plain JPEG files read by processes of their own. In: paths. Out: their bytes, in one tensor in shared memory.

A fast model leaves some sixty microseconds for a row, and a process's threads share them: opening, reading and looking
at a file would take half.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

LARGEST = 1024
"""Pixels of the longest side that is plain: larger images would make those beside them costly."""
PROCESSES = max(1, min(6, (os.cpu_count() or 1) // 2))
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, as Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}


@cache
def readers() -> ProcessPoolExecutor:
    """The processes; started at first use, ended with this one."""
    return ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("forkserver"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """The pool's own workers would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_plain(paths: Sequence[str]) -> tuple[Any, list[int]]:
    """Read files that ``plain_size`` knows.

    Returns:
        Their bytes, one after the other, uint8; and for each path how many are its own, 0 where it is another file.
    """
    import torch

    files = [data if data and plain_size(data) else b"" for data in map(_bytes, paths)]
    sizes = [len(data) for data in files]
    flat = torch.empty(sum(sizes), dtype=torch.uint8)
    buffer, at = memoryview(flat.numpy()), 0
    for data in files:
        buffer[at : at + len(data)] = data
        at += len(data)
    return flat, sizes


def _bytes(path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(file, os.fstat(file).st_size)
    except OSError:
        return None
    finally:
        os.close(file)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a whole JPEG file that nvJPEG decodes as Pillow does; None for every other."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", max(0, len(data) - 64)) < 0:
        return None  # not a JPEG, or its end is missing
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            is_plain = data[at + 4] == 8 and _is_grey_or_ycbcr(data[at + 9 : at + 2 + length])
            return (width, height) if is_plain and 0 < width <= LARGEST and 0 < height <= LARGEST else None
        # APP1 holds the rotation; APP14 may say that the colours are RGB or CMYK.
        if marker in (0xE1, 0xEE, 0xD9, 0xDA) or marker in _OTHER_FRAMES:
            return None
        at += 2 + length
    return None


def _is_grey_or_ycbcr(components: bytes) -> bool:
    """Of a frame header from its number of components on: three bytes for each, its id first."""
    return components[0] == 1 or (components[0] == 3 and components[1::3][:3] != b"RGB")
