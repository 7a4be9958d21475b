"""How operators with models work many rows. In: items and a function on a batch. Out: results in the items' order.

``in_batches`` runs a model on batches of one fixed size, because scores depend on it in their last bits; when a GPU
runs out of memory the size is halved, at most three times. ``opened`` decodes image files in threads ahead of the
model, so that both work at the same time, and hands a file that fails to its own row alone.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bettersynth_assets.errors import DeviceError
from bettersynth_assets.records.images import ImageError, open_rgb

Item = TypeVar("Item")
Out = TypeVar("Out")
HALVINGS = 3
SMALL_MODEL = 20_000_000  # parameters; CLIP ViT-B/32 has 151 million
DECODERS = max(2, min(16, os.cpu_count() or 1))
SECONDS_BETWEEN_LOGS = 5.0


@dataclass
class BatchSize:
    """Rows that a model is given at once; only ever made smaller, and then kept for the rest of the process."""

    size: int
    asked: int = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.size

    def halve(self, what: str, error: BaseException) -> None:
        """Take half the batch from now on.

        Raises:
            DeviceError: the batch has been halved three times, or is 1, and does still not fit.
        """
        if self.size == 1 or self.size <= self.asked >> HALVINGS:
            raise DeviceError(
                f"{what}: out of GPU memory at a batch of {self.size} (asked for {self.asked}): set a smaller batch in "
                f"the profile's `gpu` section, or free the GPU ({str(error).splitlines()[0]})"
            ) from error
        self.size = max(1, self.size // 2)


def in_batches(items: Sequence[Item], batch: BatchSize, run: Callable[[Sequence[Item]], Sequence[Out]]) -> list[Out]:
    """Run a model over items in batches.

    Args:
        items: rows, in order.
        batch: the size; halved here, and so for later calls too, when the GPU runs out of memory.
        run: one batch in, one result per item out.

    Raises:
        DeviceError: three halvings were not enough.
    """
    import torch

    results: list[Out] = []
    while len(results) < len(items):
        part = items[len(results) : len(results) + batch.size]
        try:
            found = run(part)
        except torch.OutOfMemoryError as error:
            batch.halve(getattr(run, "__qualname__", "model"), error)
            torch.cuda.empty_cache()
            continue
        assert len(found) == len(part)
        results.extend(found)
    return results


@contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """Let a small model's steps run on one core.

    Its products are shorter than the time that two cores need to meet, far shorter on a busy machine, and the cores
    beside it have images to decode. It also makes such a model's results the same on any number of cores.
    """
    import torch

    threads = torch.get_num_threads()
    if parameters < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def one_core_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch uses one core each; left to itself it would take all cores in every one of them."""
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # a thread's setting is the default of all threads made later


def opened(
    paths: Sequence[Path], chunk: int, prepare: Callable[[Any], Any] = lambda image: image
) -> Iterator[tuple[int, list[Any | ImageError]]]:
    """Decode image files in threads, a chunk ahead of the caller.

    Args:
        paths: files, in order.
        chunk: files per yielded list.
        prepare: run in the thread on the decoded RGB image, e.g. the resizing to a model's input.

    Yields:
        (index of the chunk's first file, for each file what ``prepare`` gave or the ``ImageError`` of that file).
    """

    def load(path: Path) -> Any | ImageError:
        try:
            return prepare(open_rgb(path))
        except ImageError as error:
            return error

    waiting: deque[list[Future[Any]]] = deque()
    with one_core_threads() as pool:
        starts = range(0, len(paths), chunk)
        for position, first in enumerate(starts):
            for ahead in starts[position + len(waiting) : position + 2]:
                waiting.append([pool.submit(load, path) for path in paths[ahead : ahead + chunk]])
            yield first, [future.result() for future in waiting.popleft()]


class Progress:
    """Logs rows done and rows/s every few seconds."""

    def __init__(self, log: Callable[[str], None], what: str, total: int) -> None:
        self._log, self._what, self._total = log, what, total
        self._start = self._last = time.monotonic()
        self.done = 0

    def add(self, rows: int) -> None:
        """Count rows as done; logs when the last line is a few seconds old and at the end."""
        self.done += rows
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LOGS or self.done == self._total:
            self._last = now
            speed = self.done / max(now - self._start, 1e-9)
            left = (self._total - self.done) / speed if speed else 0.0
            self._log(f"{self._what}: {self.done}/{self._total} rows, {speed:.1f} rows/s, {left:.0f} s left")
