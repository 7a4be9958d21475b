"""Windows of the high-resolution maps, for :func:`~toolkit.models.mgm.vision.mining.mine`.

::

    maps 4 × (I, c_s, g/2^s, g/2^s)  ─► cut    ─► cells (I, N, k_s, c_s) of each map; mean, deviation of each position
    cells, one query per window      ─► match  ─► one dot product per cell
    cells, one weight per cell       ─► gather ─► weighted sum per window

The maps receive no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.models.kernels.autograd import cast


class Windows(NamedTuple):
    """Windows of I images for N tokens, with W positions each."""

    cells: tuple[Tensor, ...]
    """(I, N, k_s, c_s) per map: the k_s cells from which the window's positions are interpolated."""
    resizes: tuple[Tensor, ...]
    """(W, k_s) interpolation weights of each map except the first."""
    mean: Tensor
    """(I, N, W) mean over the C channels of each position of the resized maps."""
    rstd: Tensor
    """(I, N, W) reciprocal standard deviation over the same channels."""


@cache
def resize_matrix(side: int, factor: int) -> Tensor:
    """Return the weights (side², k²) of a bilinear resize by ``factor`` within a window.

    The window has k = side/factor + 2 cells per side, including the border. Positions are those of
    ``F.interpolate(mode="bilinear", align_corners=False)``.
    """
    small = side // factor + 2
    # The result is cached, and an inference tensor could not be used in a later training.
    with torch.inference_mode(False), torch.device("cpu"):
        at = (torch.arange(side) + 0.5) / factor + 0.5  # in cells, counted from the border cell
        line = (1 - (at[:, None] - torch.arange(small)).abs()).clamp(min=0)
        return torch.kron(line, line)


@cache
def resize_matrices(side: int, maps: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return :func:`resize_matrix` of each map except the first, on a device."""
    with torch.inference_mode(False):
        return tuple(resize_matrix(side, 1 << level).to(device) for level in range(1, maps))


@torch.no_grad()
def cut(maps: Sequence[Tensor], tokens_per_side: int, eps: float, resizes: Sequence[Tensor] | None = None) -> Windows:
    """Split the four maps (I, c_s, g/2^s, g/2^s) into windows.

    Args:
        maps: each has half the side of the previous one; g is a multiple of ``8 * tokens_per_side``.
        tokens_per_side: n, windows per side.
        eps: epsilon of the layer normalisation.
        resizes: :func:`resize_matrices` of these maps, if already computed.
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
            # Square of a weighted sum of cells: sum over pairs of cells of their product times their weights' product.
            pairs = (resize.unsqueeze(2) * resize.unsqueeze(1)).flatten(1)
            squares = squares + _products(cell).flatten(2) @ pairs.T
    channels = sum(m.shape[1] for m in maps)
    mean = total / channels
    rstd = (squares / channels - mean.square()).clamp(min=0).add(eps).rsqrt()
    return Windows(tuple(cells), tuple(resizes), mean, rstd)


def _products(cell: Tensor) -> Tensor:
    """Compute dot products of all pairs of cells of a window: (I, N, k, c) -> (I, N, k, k) float32."""
    flat = cell.flatten(0, 1)
    if cell.is_cuda and cell.dtype == torch.bfloat16:
        # Products of bfloat16 values are exact in float32, so the cells need no cast.
        products = torch.bmm(flat, flat.transpose(1, 2), out_dtype=torch.float32)
    else:
        products = torch.bmm(flat.float(), flat.float().transpose(1, 2))
    return products.unflatten(0, cell.shape[:2])


def match(cell: Tensor, part: Tensor) -> Tensor:
    """Compute the dot product of each cell with its window's query: (W, k, c), (W, c) -> (W, k) float32."""
    result: Tensor = _Match.apply(cell, part)
    return result


def gather(cell: Tensor, weight: Tensor) -> Tensor:
    """Compute the weighted sum of each window's cells: (W, k, c), (W, k) -> (W, c) in the cells' dtype."""
    result: Tensor = _Gather.apply(cell, weight)
    return result


class _Match(torch.autograd.Function):
    """``match`` with ``gather`` as its gradient, and vice versa; neither stores a float32 copy of the cells."""

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
    if torch.compiler.is_compiling():  # compiles to one pass over the cells; a matmul with a vector needs several
        return (cell.float() * part.float().unsqueeze(1)).sum(-1)
    return torch.bmm(cell, part.to(cell.dtype).unsqueeze(-1)).squeeze(-1).float()


def _gathered(cell: Tensor, weight: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        # The unrolled sum over a window's few cells compiles to one pass with contiguous reads of channels.
        total = cell[:, 0].float() * weight[:, 0, None].float()
        for k in range(1, cell.shape[1]):
            total = total + cell[:, k].float() * weight[:, k, None].float()
        return cast(total, cell.dtype)
    return torch.bmm(weight.to(cell.dtype).unsqueeze(1), cell).squeeze(1)
