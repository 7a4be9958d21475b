"""Batch sizes that fit the memory of a GPU."""

from __future__ import annotations

import pytest
import torch

from toolkit.models.answering.memory import fitting


def test_too_little_memory_halves_the_batch_and_is_raised_if_one_row_does_not_fit() -> None:
    tried: list[int] = []

    def work(size: int, room: int) -> int:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError
        return size

    assert fitting(lambda size: work(size, 3), 20) == (2, 2)
    assert tried == [20, 10, 5, 2]
    with pytest.raises(torch.OutOfMemoryError):
        fitting(lambda size: work(size, 0), 4)
