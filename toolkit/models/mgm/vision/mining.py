"""Patch-info mining: each low-resolution token attends to its window of the high-resolution maps.

::

    low  (I, N, d)                         I images, N = n² tokens, d channels
    maps 4 × (I, c_s, g/2^s, g/2^s)        resized to g×g and concatenated: C = Σ c_s channels, split into N windows of
                                           W = (g/n)² positions
    query = LN+Linear(low); key, value = LN+Linear(windows); out = softmax(query·key/√d) · value        ─► (I, N, d)

Source: Mini-Gemini, "patch info mining" (section 3.2 of the paper). :func:`mine_plain` implements this definition.
:func:`mine` computes the same result up to rounding, without materializing keys, values or resized maps:

* Keys and values are linear in the normalised window. The key matrix is applied to the query instead; the key's biases
  add the same constant to all logits of a token and cancel in the softmax. The value matrix is applied after the
  weighted sum, because the weights sum to 1.
* Normalisation over channels needs one mean and one standard deviation per position. They are applied to logits and
  weights.
* Bilinear resizing is the same small matrix for every window, if the smaller maps are split with a border of one cell
  (replicated at the edge). It is applied to logits and weights instead of C channels.

For 8×8 windows, each token then reads 64 + 36 + 16 + 9 cells of the four maps instead of 64 of each resized map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.models.mgm.vision.windows import Windows, gather, match


class UniProjector(nn.Sequential):
    """LayerNorm and Linear (``*.0`` and ``*.1`` in the public weights): (…, c_in) -> (…, c_out)."""

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


def mine(low: Tensor, windows: Windows, query: UniProjector, aux: UniProjector, val: UniProjector) -> Tensor:
    """Compute the weighted sum of each token's window with the rearrangements of the module's docstring.

    Args:
        low: (I, N, d) low-resolution tokens.
        windows: from :func:`toolkit.models.mgm.vision.windows.cut`, with the epsilon of ``aux`` and ``val``.
        query, aux, val: the projections ``vlm_uni_{query,aux,val}_projector``.

    Returns:
        (I, N, d), to be added to ``low``. Result and gradients equal those of :func:`mine_plain` up to rounding.
    """
    images, tokens = low.shape[:2]
    cells = [cell.flatten(0, 1) for cell in windows.cells]
    mean, rstd = windows.mean.flatten(0, 1), windows.rstd.flatten(0, 1)

    q = query(low)
    q = ((q @ aux.linear.weight) * (aux.norm.weight * q.shape[-1] ** -0.5)).flatten(0, 1)
    parts = q.split([cell.shape[-1] for cell in cells], dim=-1)
    hits = [match(cell, part) for cell, part in zip(cells, parts, strict=True)]
    logits = hits[0]
    for hit, resize in zip(hits[1:], windows.resizes, strict=True):
        logits = logits + hit @ resize.T
    logits = (logits - mean * q.float().sum(-1, keepdim=True)) * rstd

    weights = torch.softmax(logits, dim=-1) * rstd
    spread = [weights, *(weights @ resize for resize in windows.resizes)]
    sums = [gather(cell, w) for w, cell in zip(spread, cells, strict=True)]
    summed = torch.cat(sums, dim=-1) - (weights * mean).sum(-1, keepdim=True).to(sums[0].dtype)
    # The key's biases have no effect (see above) and gradient 0; data-parallel training requires them in the graph.
    unused = 0 * (aux.norm.bias.sum() + aux.linear.bias.sum())
    return val.linear(summed * val.norm.weight + val.norm.bias + unused).view(images, tokens, -1)


def mine_plain(
    low: Tensor, maps: Sequence[Tensor], tokens_per_side: int, query: UniProjector, aux: UniProjector, val: UniProjector
) -> Tensor:
    """Compute :func:`mine` by its definition, with resized maps, keys and values; for tests and ``reference``."""
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
