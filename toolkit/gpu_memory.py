"""Batch sizes when a GPU runs out of memory. Imports torch only when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def halve_until_it_fits(work: Callable[[int], T], size: int, *, least: int = 1) -> tuple[T, int]:
    """Call ``work`` with a size that is halved as long as the GPU runs out of memory.

    Args:
        work: computes a result with at most that many rows in memory.
        size: first size.
        least: the size that is not halved.

    Returns:
        The result, and the size that fitted.

    Raises:
        torch.OutOfMemoryError: ``least`` does not fit either.
    """
    import torch

    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            if size <= least:
                raise
        # Outside the handler: the exception keeps the frames alive, and these the tensors that filled the memory.
        torch.cuda.empty_cache()
        size //= 2
