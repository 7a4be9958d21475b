"""Runs models over many rows in batches. In: rows and a function on a batch. Out: results in the rows' order.

``in_batches`` uses batches of one fixed size, because the last bits of scores depend on it; when a GPU runs out of
memory the size is halved, at most three times. Small models use one core and leave the others to image decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from bettersynth_assets.errors import DeviceError
from toolkit.gpu_memory import halve_until_it_fits

HALVINGS = 3
SMALL_MODEL = 20_000_000  # parameters; CLIP ViT-B/32 has 151 million


class Sliceable(Protocol):
    """Rows of which a slice is a batch: a sequence, a range of positions, or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Rows = TypeVar("Rows", bound=Sliceable)
Out = TypeVar("Out")


@dataclass
class BatchSize:
    """Rows per model call; only ever reduced, and then for the rest of the process."""

    size: int
    requested: int = field(init=False)

    def __post_init__(self) -> None:
        self.requested = self.size

    @property
    def smallest(self) -> int:
        """The size that is not halved any more."""
        return max(1, self.requested >> HALVINGS)


def batches(rows: Rows, batch: BatchSize, run: Callable[[Rows], Out]) -> Iterator[Out]:
    """Run a model over rows in batches.

    Args:
        rows: rows, in order.
        batch: the size; halved here, also for later calls, when the GPU runs out of memory.
        run: computes the result of one batch.

    Raises:
        DeviceError: it still does not fit after three halvings.
    """
    import torch

    done = 0

    def run_batch(size: int) -> Out:
        batch.size = size  # a model may allocate memory for a full batch
        return run(rows[done : done + size])

    while done < len(rows):
        try:
            result, size = halve_until_it_fits(run_batch, batch.size, least=batch.smallest)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{getattr(run, '__qualname__', 'model')}: out of GPU memory at a batch of {batch.size} (asked for "
                f"{batch.requested}): set a smaller batch in the profile's `gpu` section, or free the GPU "
                f"({str(error).splitlines()[0]})"
            ) from error
        done += len(rows[done : done + size])
        yield result


def in_batches(rows: Rows, batch: BatchSize, run: Callable[[Rows], Sequence[Out]]) -> list[Out]:
    """Concatenate ``batches`` of a function that returns one result per row."""
    results = [result for batch_results in batches(rows, batch, run) for result in batch_results]
    assert len(results) == len(rows)
    return results


@contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """Run a small model's steps on one core.

    Its matrix products are shorter than the synchronisation of two cores, especially on a busy machine, and the other
    cores decode images. It also makes the results of small models independent of the number of cores.
    """
    import torch

    threads = torch.get_num_threads()
    if parameters < SMALL_MODEL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


ProgressCallback = Callable[[int], None]
"""Progress callback; receives the number of rows that have been finished since the last call."""


def no_progress(rows: int) -> None:
    """No-op progress callback."""
