"""Rows of unequal length to tensors of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.data.conversation import IGNORE_INDEX


def padded_texts(
    ids: Sequence[NDArray[np.int64]], labels: Sequence[NDArray[np.int64]], *, pad: int, multiple: int = 1
) -> dict[str, Tensor]:
    """``input_ids``, ``labels``, ``attention_mask`` (B, T) int64, padded on the right.

    Args:
        ids, labels: (T,) of each row.
        pad: the padding's id.
        multiple: T is rounded up to a multiple of it.
    """
    longest = -(-max(map(len, ids)) // multiple) * multiple
    batch = {
        "input_ids": torch.full((len(ids), longest), pad),
        "labels": torch.full((len(ids), longest), IGNORE_INDEX),
        "attention_mask": torch.zeros((len(ids), longest), dtype=torch.long),
    }
    for number, (row, label) in enumerate(zip(ids, labels, strict=True)):
        batch["input_ids"][number, : len(row)] = torch.from_numpy(row)
        batch["labels"][number, : len(row)] = torch.from_numpy(label)
        batch["attention_mask"][number, : len(row)] = 1
    return batch
