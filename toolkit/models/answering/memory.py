"""Batch sizes that fit a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def fitting(work: Callable[[int], T], size: int) -> tuple[T, int]:
    """Call ``work`` with a size that is halved as long as the GPU runs out of memory; returns its result and the size.

    Raises:
        torch.OutOfMemoryError: even size 1 does not fit.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Outside the handler: the exception keeps the frames alive, and these the tensors that filled the memory.
        torch.cuda.empty_cache()
        size //= 2
