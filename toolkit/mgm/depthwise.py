"""ConvNeXt's 7 × 7 depthwise convolution on maps with channels last, as a Triton kernel.

In: (I, H, W, C) bfloat16 on a GPU. Out: the same shape, accumulated in float32. The eager twin is ``torch.conv2d`` on a
permuted view, which cuDNN computes several times slower in this layout (LOG.md); forward only, the tower is frozen.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 7


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, y, height, width, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of ROWS × COLUMNS positions and CHANNELS channels of one picture."""
    across = tl.cdiv(width, COLUMNS)
    tile, picture = tl.program_id(0), tl.program_id(2).to(tl.int64)
    place = tl.arange(0, ROWS * COLUMNS)
    row = (tile // across) * ROWS + place // COLUMNS
    column = (tile % across) * COLUMNS + place % COLUMNS
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x += picture * height * width * channels
    y += picture * height * width * channels
    total = tl.zeros((ROWS * COLUMNS, CHANNELS), tl.float32) + tl.load(bias + channel)[None, :].to(tl.float32)
    for i in tl.static_range(SIZE):
        for j in tl.static_range(SIZE):
            r, c = row + i - SIZE // 2, column + j - SIZE // 2
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            value = tl.load(x + (r * width + c)[:, None] * channels + channel[None, :], mask=inside[:, None], other=0.0)
            factor = tl.load(weight + (i * SIZE + j) * channels + channel)
            total += value.to(tl.float32) * factor[None, :].to(tl.float32)
    inside = (row < height) & (column < width)
    at = y + (row * width + column)[:, None] * channels + channel[None, :]
    tl.store(at, total.to(y.dtype.element_ty), mask=inside[:, None])


def depthwise(
    hidden: Tensor, weight: Tensor, bias: Tensor, *, rows: int = 8, columns: int = 8, block: int = 64, warps: int = 4
) -> Tensor:
    """Convolve each channel by itself, with a border of zeros.

    Args:
        hidden: (I, H, W, C) bfloat16, contiguous; C a multiple of ``block``.
        weight: (C, 1, 7, 7).
        bias: (C,).
        rows, columns, block, warps: tile of a program.
    """
    pictures, height, width, channels = hidden.shape
    if channels % block:
        raise ValueError(f"{channels} channels are no multiple of {block}; switch depthwise_kernel off")
    result = torch.empty_like(hidden)
    taps = weight.view(channels, SIZE * SIZE).t().contiguous()
    grid = (triton.cdiv(height, rows) * triton.cdiv(width, columns), channels // block, pictures)
    _kernel[grid](
        hidden, taps, bias, result, height, width, channels,
        ROWS=rows, COLUMNS=columns, CHANNELS=block, SIZE=SIZE, num_warps=warps,
    )  # fmt: skip
    return result
