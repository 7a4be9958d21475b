"""Patch-info mining: each low-resolution token looks at its own window of the high-resolution map.

::

    low  (I, N, d)                         I images, N = n² tokens, d channels
    maps 4 × (I, c_s, g/2^s, g/2^s)        resized to g×g and joined: C = Σ c_s channels, cut into N windows of
                                           W = (g/n)² positions
    query = LN+Linear(low); key, value = LN+Linear(windows); out = softmax(query·key/√d) · value        ─► (I, N, d)

Source: Mini-Gemini, "patch info mining" (section 3.2 of the paper). :func:`mine_plain` computes it as written.
:func:`mine` computes the same numbers without ever forming keys, values, or even the resized maps, because

* keys and values are linear in the normalised window: the key matrix is applied to the query (the key's biases shift
  all logits of a token alike and cancel in the softmax), and the value matrix after the weighted sum (weights add up
  to 1);
* normalisation over channels is one mean and one deviation per position, applied to logits and weights instead;
* bilinear resizing is the same small matrix for every window, once the smaller maps are cut with a border of one cell
  (repeated at the edge): it is applied to logits and weights instead of to C channels.

What is left to read per token are 64 + 36 + 16 + 9 cells of the four maps (for 8×8 windows) instead of 64 of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UniProjector(nn.Sequential):
    """LayerNorm and Linear, ``*.0`` and ``*.1`` in the public weights. (…, c_in) -> (…, c_out)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.LayerNorm(c_in), nn.Linear(c_in, c_out))

    @property
    def norm(self) -> nn.LayerNorm:
        norm = self[0]
        assert isinstance(norm, nn.LayerNorm)
        return norm

    @property
    def linear(self) -> nn.Linear:
        linear = self[1]
        assert isinstance(linear, nn.Linear)
        return linear


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
    """Cut the four maps (I, c_s, g/2^s, g/2^s) into windows. The maps come from a frozen tower: no gradient.

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
            squares = squares + ((resize @ _products(cell)) * resize).sum(-1)
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


def _match(cell: Tensor, part: Tensor) -> Tensor:
    """(W, k, c) and (W, c) -> (W, k) float32: each cell's product with its window's query."""
    if torch.compiler.is_compiling():  # one pass over the cells, which a product by a vector only takes in several
        return (cell.float() * part.float().unsqueeze(1)).sum(-1)
    return torch.bmm(cell, part.to(cell.dtype).unsqueeze(-1)).squeeze(-1).float()


def _gather(cell: Tensor, weight: Tensor) -> Tensor:
    """(W, k, c) and (W, k) -> (W, c): the cells' weighted sum."""
    if torch.compiler.is_compiling():
        return (cell.float() * weight.float().unsqueeze(-1)).sum(1).to(cell.dtype)
    return torch.bmm(weight.to(cell.dtype).unsqueeze(1), cell).squeeze(1)


def mine(low: Tensor, windows: Windows, query: UniProjector, aux: UniProjector, val: UniProjector) -> Tensor:
    """Weighted sum of each token's window, rearranged as the module's text says.

    Args:
        low: (I, N, d) low-resolution tokens.
        windows: from :func:`cut`, with the epsilon of ``aux`` and ``val``.
        query, aux, val: the projections ``vlm_uni_{query,aux,val}_projector``.

    Returns:
        (I, N, d), to be added to ``low``. Equal to :func:`mine_plain` up to rounding, gradients included.
    """
    images, tokens = low.shape[:2]
    cells = [cell.flatten(0, 1) for cell in windows.cells]
    mean, rstd = windows.mean.flatten(0, 1), windows.rstd.flatten(0, 1)

    q = query(low)
    q = ((q @ aux.linear.weight) * (aux.norm.weight * q.shape[-1] ** -0.5)).flatten(0, 1)
    parts = q.split([cell.shape[-1] for cell in cells], dim=-1)
    hits = [_match(cell, part) for cell, part in zip(cells, parts, strict=True)]
    logits = hits[0]
    for hit, resize in zip(hits[1:], windows.resizes, strict=True):
        logits = logits + hit @ resize.T
    logits = (logits - mean * q.float().sum(-1, keepdim=True)) * rstd

    weights = torch.softmax(logits, dim=-1) * rstd
    spread = [weights, *(weights @ resize for resize in windows.resizes)]
    sums = [_gather(cell, w) for w, cell in zip(spread, cells, strict=True)]
    summed = torch.cat(sums, dim=-1) - (weights * mean).sum(-1, keepdim=True).to(sums[0].dtype)
    # The key's biases have no effect (see above), hence gradient 0; data-parallel training needs them in the graph.
    unused = 0 * (aux.norm.bias.sum() + aux.linear.bias.sum())
    return val.linear(summed * val.norm.weight + val.norm.bias + unused).view(images, tokens, -1)


def mine_plain(
    low: Tensor, maps: Sequence[Tensor], tokens_per_side: int, query: UniProjector, aux: UniProjector, val: UniProjector
) -> Tensor:
    """The definition, with resized maps, keys and values formed; for tests. Result as of :func:`mine`."""
    size = maps[0].shape[-2:]
    joined = torch.cat([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps], dim=1)
    images, channels, grid, _ = joined.shape
    n, w = tokens_per_side, grid // tokens_per_side
    windows = (
        joined.view(images, channels, n, w, n, w).permute(0, 2, 4, 3, 5, 1).reshape(images, n * n, w * w, channels)
    )
    q, k, v = query(low), aux(windows), val(windows)
    weights = torch.softmax(torch.einsum("ind,inwd->inw", q, k) * q.shape[-1] ** -0.5, dim=-1)
    return torch.einsum("inw,inwd->ind", weights, v)
