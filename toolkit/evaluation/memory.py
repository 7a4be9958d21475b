"""Batch sizes that fit a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def fitting(work: Callable[[int], T], size: int) -> tuple[T, int]:
    """What ``work`` makes of a size, and that size: halved as long as the GPU's memory is too small.

    Raises:
        torch.OutOfMemoryError: size 1 does not fit either.
    """
    while True:
        try:
            return work(size), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Outside of the handler: the error holds on to the frames, and they to the tensors that filled the memory.
        torch.cuda.empty_cache()
        size //= 2
