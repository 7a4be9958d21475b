"""Patch-info mining: each low-resolution token looks at its own window of the high-resolution map.

::

    low  (I, N, d)                   I images, N = n² tokens, d channels
    maps 4 × (I, c_s, g/2^s, g/2^s)  ─► windows (I, N, W, C)   C = Σ c_s, W = (g/n)² positions of a window
    query = LN+Linear(low); key, value = LN+Linear(windows); out = softmax(query·key/√d) · value  ─► (I, N, d)

Source: Mini-Gemini, "patch info mining" (section 3.2 of the paper). Keys and values are linear in the window, so
:func:`mine` computes the same without ever forming them: the key matrix is applied to the query (d×C instead of
W·C×d products per token; the key's biases shift all W logits of a token alike and cancel in the softmax), and the value
matrix is applied after the weighted sum (the weights add up to 1, so its bias comes out whole). :func:`mine_plain` is
the textbook twin that tests compare it with.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def join_maps(maps: Sequence[Tensor]) -> Tensor:
    """Resize the four ConvNeXt maps bilinearly to the first one's grid and join their channels: (I, C, g, g)."""
    first, *rest = maps
    size = first.shape[-2:]
    resized = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in rest]
    return torch.cat([first, *resized], dim=1)


def cut_windows(joined: Tensor, tokens_per_side: int) -> Tensor:
    """Cut (I, C, g, g) into one window per low-resolution token: (I, N, W, C), both row by row."""
    images, channels, grid, _ = joined.shape
    n, w = tokens_per_side, grid // tokens_per_side
    windows = joined.view(images, channels, n, w, n, w).permute(0, 2, 4, 3, 5, 1)
    return windows.reshape(images, n * n, w * w, channels)


def mine(low: Tensor, windows: Tensor, query: UniProjector, aux: UniProjector, val: UniProjector) -> Tensor:
    """Weighted sum of each token's window, re-associated.

    Args:
        low: (I, N, d) low-resolution tokens.
        windows: (I, N, W, C) from :func:`cut_windows`.
        query, aux, val: the projections ``vlm_uni_{query,aux,val}_projector``.

    Returns:
        (I, N, d), to be added to ``low``. Equal to :func:`mine_plain` up to rounding, gradients included.
    """
    images, tokens, width, channels = windows.shape
    # Normalised without the two affine parts: those move to the query side and behind the sum, and frozen windows then
    # need no gradient at all.
    plain = F.layer_norm(windows, (channels,), eps=aux.norm.eps).reshape(images * tokens, width, channels)
    q = query(low)
    q = (q @ aux.linear.weight) * (aux.norm.weight * q.shape[-1] ** -0.5)
    logits = torch.bmm(plain, q.reshape(images * tokens, channels, 1)).squeeze(-1)
    weights = torch.softmax(logits.float(), dim=-1).to(plain.dtype)
    summed = torch.bmm(weights.unsqueeze(1), plain).view(images, tokens, channels)
    return val.linear(summed * val.norm.weight + val.norm.bias)


def mine_plain(low: Tensor, windows: Tensor, query: UniProjector, aux: UniProjector, val: UniProjector) -> Tensor:
    """The definition, with keys and values formed; same arguments and result as :func:`mine`."""
    q, k, v = query(low), aux(windows), val(windows)
    logits = torch.einsum("ind,inwd->inw", q, k) * q.shape[-1] ** -0.5
    weights = torch.softmax(logits.float(), dim=-1).to(v.dtype)
    return torch.einsum("inw,inwd->ind", weights, v)
