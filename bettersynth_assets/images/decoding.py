"""Decodes image files with Pillow in threads. In: paths and preparation functions. Out: chunks of prepared images.

Each file is decoded once for all models that read it. Decoding runs one chunk ahead of the caller, so that it overlaps
with the models. A file that fails yields its error and does not affect the others. ``gpu.nvjpeg`` returns the same
chunks.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL.Image import Image

from bettersynth_assets.images.opening import ImageError, open_rgb

T = TypeVar("T")
DECODERS = max(2, min(16, os.cpu_count() or 1))
Prepare = Callable[[Image], Any]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A number of consecutive files."""

    first: int
    """Position of its first file among all files."""
    good: list[int]
    """Positions of the files that were decoded."""
    errors: dict[int, ImageError]
    """Errors of the other files, by position."""
    inputs: list[Any]
    """Results for the good files, one entry per function in ``prepares``: (good, ...) if tensors, else a list."""

    @property
    def files(self) -> int:
        return len(self.good) + len(self.errors)


def pillow_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Prepare]) -> Iterator[Chunk]:
    """Decode files with Pillow, one chunk ahead of the caller (see ``models.image_chunks.chunks``)."""
    import torch

    for first, prepared in opened(paths, size, lambda rgb: tuple(prepare(rgb) for prepare in prepares)):
        decoded = [results for results in prepared if not isinstance(results, ImageError)]
        yield Chunk(
            first=first,
            good=[first + offset for offset, results in enumerate(prepared) if not isinstance(results, ImageError)],
            errors={first + offset: error for offset, error in enumerate(prepared) if isinstance(error, ImageError)},
            inputs=[_stack_or_list(results) for results in zip(*decoded, strict=True)]
            or [torch.empty(0) for _ in prepares],
        )


def _stack_or_list(results: Sequence[Any]) -> Any:
    import torch

    return torch.stack(results) if isinstance(results[0], torch.Tensor) else list(results)  # type: ignore[arg-type]


def opened(
    paths: Sequence[Path], chunk: int, prepare: Prepare = lambda image: image
) -> Iterator[tuple[int, list[Any | ImageError]]]:
    """Decode image files in threads, one chunk ahead of the caller.

    Args:
        paths: files, in order.
        chunk: files per yielded list.
        prepare: called in the thread with the decoded RGB image, e.g. to resize it to a model's input size.

    Yields:
        (index of the chunk's first file, result of ``prepare`` or ``ImageError`` for each file).
    """

    waiting: deque[list[Future[Any]]] = deque()
    with one_core_threads() as pool:
        starts = range(0, len(paths), chunk)
        for position, first in enumerate(starts):
            for ahead in starts[position + len(waiting) : position + 2]:
                waiting.append([pool.submit(opened_one, path, prepare) for path in paths[ahead : ahead + chunk]])
            yield first, [future.result() for future in waiting.popleft()]


def opened_one(path: Path, prepare: Prepare) -> Any | ImageError:
    """Return the result of ``prepare`` for one image file, or the file's error."""
    try:
        return prepare(open_rgb(path))
    except ImageError as error:
        return error


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items; a thread computes each one while the caller processes the previous one."""
    source, exhausted = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[Any] = thread.submit(next, source, exhausted)
        while (item := waiting.result()) is not exhausted:
            waiting = thread.submit(next, source, exhausted)
            yield item


@contextmanager
def one_core_threads() -> Iterator[ThreadPoolExecutor]:
    """Thread pool in which torch uses one core per thread; by default, every thread would use all cores."""
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # do not decode queued files after an error
    finally:
        torch.set_num_threads(threads)  # later threads inherit the last setting of any thread
