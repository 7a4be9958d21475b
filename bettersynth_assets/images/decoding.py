"""Image files decoded by Pillow in threads. In: paths and how to prepare an image. Out: chunks of prepared images.

Each file is decoded once for all models that read it, one chunk ahead of them, so that decoding and models overlap. A
file that fails gives its error in its place and does not affect the others. ``gpu.nvjpeg`` gives the same chunks.
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

from bettersynth_assets.images.opening import ImageError, open_rgb

T = TypeVar("T")
DECODERS = max(2, min(16, os.cpu_count() or 1))
Prepare = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive files."""

    first: int
    """Position of its first file among all."""
    good: list[int]
    """Positions of the files that could be decoded."""
    errors: dict[int, ImageError]
    """Of the others, by position."""
    inputs: list[Any]
    """For each of ``prepares``, its result for the good files: (good, ...) stacked if tensors, else a list."""

    @property
    def files(self) -> int:
        return len(self.good) + len(self.errors)


def pillow_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Prepare]) -> Iterator[Chunk]:
    """Decode files with Pillow, one chunk ahead of the caller; see ``models.image_chunks.chunks``."""
    import torch

    for first, items in opened(paths, size, lambda rgb: tuple(prepare(rgb) for prepare in prepares)):
        good = [item for item in items if not isinstance(item, ImageError)]
        yield Chunk(
            first=first,
            good=[first + at for at, item in enumerate(items) if not isinstance(item, ImageError)],
            errors={first + at: item for at, item in enumerate(items) if isinstance(item, ImageError)},
            inputs=[_together(parts) for parts in zip(*good, strict=True)] or [torch.empty(0) for _ in prepares],
        )


def _together(parts: Sequence[Any]) -> Any:
    import torch

    return torch.stack(parts) if isinstance(parts[0], torch.Tensor) else list(parts)  # type: ignore[arg-type]


def opened(
    paths: Sequence[Path], chunk: int, prepare: Prepare = lambda image: image
) -> Iterator[tuple[int, list[Any | ImageError]]]:
    """Decode image files in threads, a chunk ahead of the caller.

    Args:
        paths: files, in order.
        chunk: files per yielded list.
        prepare: run in the thread on the decoded RGB image, e.g. the resizing to a model's input.

    Yields:
        (index of the chunk's first file, for each file what ``prepare`` gave or the ``ImageError`` of that file).
    """

    waiting: deque[list[Future[Any]]] = deque()
    with one_core_threads() as pool:
        starts = range(0, len(paths), chunk)
        for position, first in enumerate(starts):
            for ahead in starts[position + len(waiting) : position + 2]:
                waiting.append([pool.submit(opened_one, path, prepare) for path in paths[ahead : ahead + chunk]])
            yield first, [future.result() for future in waiting.popleft()]


def opened_one(path: Path, prepare: Prepare) -> Any | ImageError:
    """What ``prepare`` gives for one image file, or that file's error."""
    try:
        return prepare(open_rgb(path))
    except ImageError as error:
        return error


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each computed in a thread while the caller processes the one before."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[Any] = thread.submit(next, source, end)
        while (item := waiting.result()) is not end:
            waiting = thread.submit(next, source, end)
            yield item


@contextmanager
def one_core_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch uses one core each; by default it would use all cores in each thread."""
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # after an error, queued files are not decoded
    finally:
        torch.set_num_threads(threads)  # a thread's setting becomes the default of later threads
