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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.models.mgm.windows import Windows, gather, match


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


def mine(low: Tensor, windows: Windows, query: UniProjector, aux: UniProjector, val: UniProjector) -> Tensor:
    """Weighted sum of each token's window, rearranged as the module's text says.

    Args:
        low: (I, N, d) low-resolution tokens.
        windows: from :func:`toolkit.models.mgm.windows.cut`, with the epsilon of ``aux`` and ``val``.
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
    hits = [match(cell, part) for cell, part in zip(cells, parts, strict=True)]
    logits = hits[0]
    for hit, resize in zip(hits[1:], windows.resizes, strict=True):
        logits = logits + hit @ resize.T
    logits = (logits - mean * q.float().sum(-1, keepdim=True)) * rstd

    weights = torch.softmax(logits, dim=-1) * rstd
    spread = [weights, *(weights @ resize for resize in windows.resizes)]
    sums = [gather(cell, w) for w, cell in zip(spread, cells, strict=True)]
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
