"""Windows of the high-resolution maps, as :func:`~toolkit.models.mgm.mining.mine` reads them.

No gradient goes into the maps.

::

    maps 4 × (I, c_s, g/2^s, g/2^s)  ─► cut ─► cells (I, N, k_s, c_s) of each map, mean and deviation of each position
    cells, a query per window        ─► match  ─► a number per cell
    cells, a weight per cell         ─► gather ─► their sum per window
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Windows(NamedTuple):
    """Windows of I images for N tokens, W positions each.

    ``cells``: per map (I, N, k_s, c_s), the k_s cells that the window's positions are interpolated from.
    ``resizes``: (W, k_s) per map but the first, how they are interpolated.
    ``mean``, ``rstd``: (I, N, W) over the C channels of each position of the resized maps.
    """

    cells: tuple[Tensor, ...]
    resizes: tuple[Tensor, ...]
    mean: Tensor
    rstd: Tensor


@cache
def resize_matrix(side: int, factor: int) -> Tensor:
    """(side², k²) weights of a bilinear resize by ``factor`` in a window, from its k = side/factor + 2 cells a side.

    Positions are those of ``F.interpolate(mode="bilinear", align_corners=False)``.
    """
    small = side // factor + 2
    # An inference tensor would be of no use to a later training, and this one is kept.
    with torch.inference_mode(False), torch.device("cpu"):
        at = (torch.arange(side) + 0.5) / factor + 0.5  # in cells, counted from the border cell
        line = (1 - (at[:, None] - torch.arange(small)).abs()).clamp(min=0)
        return torch.kron(line, line)


@cache
def resize_matrices(side: int, maps: int, device: torch.device) -> tuple[Tensor, ...]:
    """:func:`resize_matrix` of each map but the first, on a device."""
    with torch.inference_mode(False):
        return tuple(resize_matrix(side, 1 << level).to(device) for level in range(1, maps))


@torch.no_grad()
def cut(maps: Sequence[Tensor], tokens_per_side: int, eps: float, resizes: Sequence[Tensor] | None = None) -> Windows:
    """Cut the four maps (I, c_s, g/2^s, g/2^s) into windows.

    Args:
        maps: sides halve from one to the next; g is a multiple of ``8 * tokens_per_side``.
        tokens_per_side: windows per side, n.
        eps: of the layer normalisation.
        resizes: :func:`resize_matrices` for these maps, when they are at hand.
    """
    n, side = tokens_per_side, maps[0].shape[-1] // tokens_per_side
    if resizes is None:
        resizes = resize_matrices(side, len(maps), maps[0].device)
    cells = []
    total = squares = torch.zeros(())
    for level, small in enumerate(maps):
        step = side >> level
        border = 1 if level else 0
        padded = F.pad(small, (border,) * 4, mode="replicate") if border else small
        patches = padded.permute(0, 2, 3, 1).unfold(1, step + 2 * border, step).unfold(2, step + 2 * border, step)
        cell = patches.permute(0, 1, 2, 4, 5, 3).reshape(len(small), n * n, -1, small.shape[1])
        cells.append(cell)
        sums = cell.sum(-1, dtype=torch.float32)
        if level == 0:
            total, squares = sums, cell.float().square().sum(-1)
        else:
            resize = resizes[level - 1]
            total = total + sums @ resize.T
            # Squares of weighted sums of cells: sums of the products of two cells, with the products of their weights.
            pairs = (resize.unsqueeze(2) * resize.unsqueeze(1)).flatten(1)
            squares = squares + _products(cell).flatten(2) @ pairs.T
    channels = sum(m.shape[1] for m in maps)
    mean = total / channels
    rstd = (squares / channels - mean.square()).clamp(min=0).add(eps).rsqrt()
    return Windows(tuple(cells), tuple(resizes), mean, rstd)


def _products(cell: Tensor) -> Tensor:
    """(I, N, k, c) -> (I, N, k, k) float32: sums over channels of the products of any two cells of a window."""
    flat = cell.flatten(0, 1)
    if cell.is_cuda and cell.dtype == torch.bfloat16:
        # Products of bfloat16 are exact in float32, so there is nothing to gain from widening the cells first.
        products = torch.bmm(flat, flat.transpose(1, 2), out_dtype=torch.float32)
    else:
        products = torch.bmm(flat.float(), flat.float().transpose(1, 2))
    return products.unflatten(0, cell.shape[:2])


def match(cell: Tensor, part: Tensor) -> Tensor:
    """(W, k, c) cells and (W, c) -> (W, k) float32: each cell's product with its window's query."""
    result: Tensor = _Match.apply(cell, part)
    return result


def gather(cell: Tensor, weight: Tensor) -> Tensor:
    """(W, k, c) cells and (W, k) -> (W, c), of the cells' type: their weighted sum."""
    result: Tensor = _Gather.apply(cell, weight)
    return result


class _Match(torch.autograd.Function):
    """Each is the other's gradient, and neither keeps a widened copy of the cells."""

    @staticmethod
    def forward(ctx: Any, cell: Tensor, part: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        ctx.dtype = part.dtype
        return _matched(cell, part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (cell,) = ctx.saved_tensors
        return None, _gathered(cell, gradient).to(ctx.dtype)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        ctx.dtype = weight.dtype
        return _gathered(cell, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (cell,) = ctx.saved_tensors
        return None, _matched(cell, gradient).to(ctx.dtype)


def _matched(cell: Tensor, part: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # one pass over the cells, which a product by a vector only takes in several
        return (cell.float() * part.float().unsqueeze(1)).sum(-1)
    return torch.bmm(cell, part.to(cell.dtype).unsqueeze(-1)).squeeze(-1).float()


def _gathered(cell: Tensor, weight: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # Written out, the sum over a window's few cells is one pass that reads channels side by side.
        total = cell[:, 0].float() * weight[:, 0, None].float()
        for k in range(1, cell.shape[1]):
            total = total + cell[:, k].float() * weight[:, k, None].float()
        return total.to(cell.dtype)
    return torch.bmm(weight.to(cell.dtype).unsqueeze(1), cell).squeeze(1)
