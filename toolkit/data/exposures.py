"""Exposures of one training phase, in the order in which a loader returns them.

In: :class:`Rows` and the order of the seed. Out: one :class:`Exposure` per position.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from toolkit.data.order import deal, loss_weights
from toolkit.data.rows import Rows


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One row of a batch: ``input_ids`` and ``labels`` (T,), ``weight`` of each labelled token in the step's loss."""

    id: str
    image: Path | None
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    weight: float


def exposure_of(rows: Rows, sample: int, *, weight: float = 1.0) -> Exposure:
    """Return an exposure of a sample."""
    ids, labels = rows.encoded(sample)
    return Exposure(id=rows.ids[sample], image=rows.image(sample), input_ids=ids, labels=labels, weight=weight)


class Exposures(Dataset[Exposure]):
    """Exposures of whole steps, dealt by length to processes and micro-batches; see :mod:`toolkit.data.order`.

    Args:
        rows: the encoded samples.
        order: sample of each exposure, ``steps * global_batch`` of them, as the seed gives it.
        global_batch, per_device_batch, processes: how a step is cut.
        group: rows of the order whose mean loss counts once; None for the mean over all tokens of a step.
    """

    def __init__(
        self, rows: Rows, order: list[int], *, global_batch: int, per_device_batch: int, processes: int,
        group: int | None,
    ) -> None:  # fmt: skip
        chosen = np.array(order, dtype=np.int64)
        dealt = deal(rows.lengths[chosen], global_batch, per_device_batch, processes)
        self.rows, self.global_batch = rows, global_batch
        self.samples, self.order = chosen[dealt], chosen
        self.weights = loss_weights(rows.labelled[chosen], global_batch, group)[dealt]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Exposure:
        return exposure_of(self.rows, int(self.samples[position]), weight=float(self.weights[position]))

    def step_ids(self) -> list[list[str]]:
        """Ids of each step's samples in the order of the seed, which no way to cut a step changes."""
        return [self.ids_of(step) for step in range(1, len(self.order) // self.global_batch + 1)]

    def ids_of(self, step: int) -> list[str]:
        """Ids of the samples of one step, counted from 1, in the order of the seed."""
        samples = self.order[(step - 1) * self.global_batch : step * self.global_batch]
        return [self.rows.ids[int(sample)] for sample in samples]
