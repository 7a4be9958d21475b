"""Batch sizes that are halved when a GPU runs out of memory."""

from __future__ import annotations

import pytest
import torch

from toolkit.gpu_memory import halve_until_it_fits


def test_too_little_memory_halves_the_batch_and_is_raised_if_one_row_does_not_fit() -> None:
    tried: list[int] = []

    def work(size: int, room: int) -> int:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError
        return size

    assert halve_until_it_fits(lambda size: work(size, 3), 20) == (2, 2)
    assert tried == [20, 10, 5, 2]
    with pytest.raises(torch.OutOfMemoryError):
        halve_until_it_fits(lambda size: work(size, 0), 4)


def test_a_size_at_the_least_is_not_halved() -> None:
    tried: list[int] = []

    def too_large(size: int) -> None:
        tried.append(size)
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        halve_until_it_fits(too_large, 16, least=4)
    assert tried == [16, 8, 4]
