"""Start of a projector by regression: what ``projector_start: regression`` does before the first step of a phase.

In: a model with a random projector, and the rows of the phase. Out: the same model; its projector's last layer W, b is
fitted in closed form::

    x_j (m,)  hidden units of an image token before the last layer     y (h,)  mean word embedding of its row's labels
    W, b = argmin Σ ‖W x_j + b − (y − ȳ)‖² + λ ‖W‖²,  then scaled to the spread that the random layer had

Every token of an image has the target of its row, so a token is mapped to the words that go with what it shows. The
hidden layer stays random. This is ridge regression on random features (Huang, Zhu and Siew, "Extreme learning machine:
theory and applications", Neurocomputing 70, 2006). It depends on the training seed through the hidden layer only. Short
trainings of small models then differ less between seeds: see docs/results/miniature.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolkit.data.collator import Collator
from toolkit.data.exposures import exposure_of
from toolkit.data.rows import Rows
from toolkit.models.base import Architecture
from toolkit.training.settings import PlanError

MOST_ROWS = 2048
"""Largest number of rows that are used, evenly spaced."""
RIDGE = 1e-3
"""λ, relative to the mean square of a hidden unit, per token."""
_BATCH = 64


@dataclass
class _Sums:
    """Sums over tokens, float64, of x with a constant 1 appended (m + 1), and of targets (h)."""

    units: int
    width: int
    tokens: int = 0
    xx: Tensor = field(init=False)
    xy: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.xx = torch.zeros(self.units + 1, self.units + 1, dtype=torch.float64)
        self.xy = torch.zeros(self.units + 1, self.width, dtype=torch.float64)

    def add(self, hidden: Tensor, targets: Tensor) -> None:
        """Add tokens of images (I, N, m) with the images' targets (I, h)."""
        x = hidden.double().cpu()
        x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        self.xx += x.flatten(0, 1).T @ x.flatten(0, 1)
        self.xy += x.sum(1).T @ targets.double().cpu()
        self.tokens += x.shape[0] * x.shape[1]

    def spread(self, weight: Tensor) -> Tensor:
        """Return the root mean variance over tokens of the outputs of a layer (h, m)."""
        mean = self.xx[-1, :-1] / self.tokens
        covariance = self.xx[:-1, :-1] / self.tokens - torch.outer(mean, mean)
        return torch.einsum("hm,mn,hn->h", weight, covariance, weight).mean().sqrt()


def start_by_regression(
    architecture: Architecture, model: PreTrainedModel, rows: Rows, collator: Collator, device: torch.device
) -> int:
    """Fit the projector's last layer to a phase's rows, in place.

    Args:
        model: with a random projector; moved to the device.
        rows: those of the phase; rows without an image are not used.
        collator: reads images or cached features.

    Returns:
        Number of rows that were used; 0 leaves the projector as it was: no row has an image, or all rows have the same
        text, which leaves nothing to fit.

    Raises:
        PlanError: the architecture does not say which layer is its projector's last.
    """
    chosen = _chosen(rows)
    if len({int(rows.text[at]) for at in chosen}) < 2:
        return 0
    module: nn.Module = model
    training = module.training
    module.to(device).eval()
    words = cast(nn.Embedding, model.get_input_embeddings()).weight.detach().float()
    targets = _targets(rows, chosen, words)
    sums: _Sums | None = None
    with torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            batch = collator.images([exposure_of(rows, at) for at in chosen[start : start + _BATCH]], device)
            try:
                hidden, last = architecture.projector_hidden(model, batch)
            except NotImplementedError as error:
                raise PlanError(
                    f"projector_start: 'regression' needs {error}, which the architecture lacks; use 'random'"
                ) from error
            sums = sums or _Sums(units=last.in_features, width=last.out_features)
            sums.add(hidden, targets[start : start + _BATCH])
        if sums is not None:
            _fit(last, sums)
    module.train(training)
    return len(chosen)


def _chosen(rows: Rows) -> list[int]:
    """Return rows with different images or texts, evenly spaced; the same for all seeds."""
    first: dict[tuple[str, int], int] = {}
    for at in range(len(rows)):
        if rows.images[at]:
            first.setdefault((rows.images[at], int(rows.text[at])), at)
    different = list(first.values())
    spaced = np.linspace(0, len(different) - 1, min(MOST_ROWS, len(different))).round().astype(int)
    return [different[at] for at in spaced.tolist()]


def _targets(rows: Rows, chosen: list[int], words: Tensor) -> Tensor:
    """Return (rows, h): the mean embedding of each row's labels, minus the mean over rows."""
    means = []
    for at in chosen:
        ids, labels = rows.encoded(at)
        means.append(words[torch.from_numpy(ids[labels == ids]).to(words.device)].mean(dim=0))
    stacked = torch.stack(means)
    return stacked - stacked.mean(dim=0)


def _fit(last: nn.Linear, sums: _Sums) -> None:
    before = sums.spread(last.weight.double().cpu())
    penalty = RIDGE * torch.diagonal(sums.xx)[:-1].mean() * torch.eye(len(sums.xx), dtype=torch.float64)
    penalty[-1, -1] = 0  # the constant is not penalised
    solution = torch.linalg.solve(sums.xx + penalty, sums.xy)
    weight, bias = solution[:-1].T, solution[-1]
    scale = before / sums.spread(weight)
    last.weight.copy_(weight * scale)
    if last.bias is not None:
        last.bias.copy_(bias * scale)
