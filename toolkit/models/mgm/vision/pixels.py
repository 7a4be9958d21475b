"""The two image inputs of MGM, computed from squares of the high resolution.

In: (I, S, S, 3) uint8. Out: ``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S), float32, normalised as
for CLIP.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from toolkit.images.squares import as_floats


class Pixels(NamedTuple):
    """``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S) of the same I images."""

    images: Tensor
    images_aux: Tensor


def normalise(images: Tensor, levels: Tensor, *, image_size: int) -> Pixels:
    """Compute both inputs of the model from :func:`~toolkit.images.squares.squares`, on their device.

    Args:
        images: (I, S, S, 3) uint8.
        levels: from :func:`~toolkit.images.squares.grey_levels`, on the same device.
        image_size: side s of the low-resolution input, a bilinear downsample of the normalised high-resolution input.
    """
    aux = as_floats(images, levels)
    low = F.interpolate(aux, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return Pixels(low, aux)
