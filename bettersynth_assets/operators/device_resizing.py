"""Decoded images resized on their device. In: uint8 images of any sizes. Out: one uint8 tensor, as Pillow resizes.

Pillow's arithmetic as two matrix products, across and then down, with its rounding in between. (Pillow 13 goes down
first in some tall images, where the rounding then differs.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.operators.pixels import Resizing, filter_weights


def resized(images: Sequence[Any], to: Resizing) -> Any:
    """Resize decoded images as ``to`` does.

    Args:
        images: (3, H, W) uint8 tensors of any sizes on one device, B of them.
        to: the resizing.

    Returns:
        (B, height, width, 3) uint8.
    """
    import torch

    device = images[0].device
    device = images[0].device
    sizes = [(image.shape[2], image.shape[1]) for image in images]
    wide, high = max(width for width, _ in sizes), max(height for _, height in sizes)
    padded = torch.empty((len(images), 3, high, wide), dtype=torch.uint8, device=device)
    places = [padded[at, :, :height, :width] for at, (width, height) in enumerate(sizes)]
    torch._foreach_copy_(places, list(images))
    by_size = {size: _passes(to, *size) for size in {*sizes}}
    passes = [by_size[size] for size in sizes]
    rows = padded.flatten(1, 2).float() @ _matrices([across for across, _ in passes], wide, device).mT
    rows = _grey(rows).unflatten(1, (3, high))  # (B, 3, high, width)
    made = _grey(_matrices([down for _, down in passes], high, device).unsqueeze(1) @ rows)
    return made.to(torch.uint8).permute(0, 2, 3, 1)


def _grey(values: Any) -> Any:
    """Rounded as Pillow rounds, in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


class _Taps(NamedTuple):
    """Weights of a pass over images of one size: for each output pixel, those of input pixels ``first`` and on."""

    first: NDArray[np.int64]
    """(count,)"""
    weights: NDArray[np.float32]
    """(count, K)"""


@lru_cache(maxsize=8192)
def _passes(to: Resizing, width: int, height: int) -> tuple[_Taps, _Taps]:
    """Across and down an image of this size."""
    frame = to.frame(width, height)
    return (
        _taps(width, frame.width, frame.left, to.width, to.resample),
        _taps(height, frame.height, frame.top, to.height, to.resample),
    )


@lru_cache(maxsize=4096)
def _taps(edge: int, resized_edge: int, first: int, count: int, resample: int) -> _Taps:
    dense = filter_weights(edge, resized_edge, first, count, resample)
    there = dense != 0
    begin = there.argmax(1)
    taps = int((edge - there[:, ::-1].argmax(1) - begin).max())
    begin = np.minimum(begin, edge - taps)
    return _Taps(begin, np.take_along_axis(dense, begin[:, None] + np.arange(taps), axis=1))


def _matrices(passes: Sequence[_Taps], columns: int, device: Any) -> Any:
    """(B, count, columns): the weights of each image's pass, zero where it has none."""
    import torch

    kinds = {id(taps): taps for taps in passes}
    number = {key: at for at, key in enumerate(kinds)}
    count, longest = len(passes[0].first), max(taps.weights.shape[1] for taps in passes)
    weights = np.zeros((len(kinds), count, longest), np.float32)
    for at, taps in enumerate(kinds.values()):
        weights[at, :, : taps.weights.shape[1]] = taps.weights
    first = torch.from_numpy(np.stack([taps.first for taps in kinds.values()])).to(device)
    # Taps that only fill up add nothing, wherever they are put.
    places = (first.unsqueeze(2) + torch.arange(longest, device=device)).clamp_(max=columns - 1)
    table = torch.zeros((len(kinds), count, columns), device=device)
    table.scatter_add_(2, places, torch.from_numpy(weights).to(device))
    return table[torch.tensor([number[id(taps)] for taps in passes], device=device)]
