"""Training loop of all weights. In: modules and a loss of a batch of row numbers. Out: trained modules, last loss.

Rows are drawn by a seeded generator. The learning rate warms up and follows a cosine; gradients are clipped at 1. On a
GPU the forward pass runs in bfloat16.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

HELD_OUT = 2048
"""Rows at the end of the bank that training never draws; QUALITY.json reports figures on them."""


def held_out(rows: int) -> range:
    """Return the held-out rows: the last ``HELD_OUT``, or a tenth of a small bank."""
    return range(rows - min(HELD_OUT, rows // 10), rows)


def train(
    name: str,
    modules: Sequence[nn.Module],
    loss_of: Callable[[Tensor], Tensor],
    *,
    rows: int,
    steps: int,
    batch: int,
    learning_rate: float,
    device: str,
    random_seed: int = 0,
    weight_decay: float = 0.02,
) -> float:
    """Train for ``steps`` steps.

    Args:
        name: label of the progress lines, printed ten times.
        modules: modules whose parameters are trained.
        loss_of: returns the loss of the rows with the given numbers, an int64 tensor on ``device``.
        rows: rows of the bank, including the held-out ones, which are not drawn.

    Returns:
        Mean loss of the last 20 steps.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(random_seed)
    warm_up, limit, losses, start = max(1, min(200, steps // 10)), held_out(rows).start, [], time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        picked = torch.randint(limit, (batch,), generator=generator).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of(picked)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= steps - 20 or step % max(1, steps // 10) == 0:
            losses.append(float(loss.detach()))
            if step % max(1, steps // 10) == 0:
                print(f"{name} step {step}/{steps} loss {losses[-1]:.4f} {time.monotonic() - start:.0f} s", flush=True)
    final = sum(losses[-20:]) / len(losses[-20:])
    if not math.isfinite(final):
        raise FloatingPointError(f"{name}: the loss is {final} after {steps} steps; lower the learning rate")
    print(f"{name} done loss {final:.4f} {time.monotonic() - start:.0f} s", flush=True)
    return final


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def on(module: ModuleT, device: str) -> ModuleT:
    """Move a module and keep its type: transformers' ``to`` is typed for its decorator, not for the caller."""
    nn.Module.to(module, device)
    return module


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half. In: (P,) and (N,)."""
    above = (positive[:, None] > negative[None]).float() + 0.5 * (positive[:, None] == negative[None]).float()
    return float(above.mean())
