"""Image preprocessing: RGB images to squares of one size, and their values to a model's input.

::

    images of any size ─ squares ─► (I, S, S, 3) uint8 ─ as_floats, a table of grey levels ─► (I, 3, S, S) float32
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit.images.aspect import ASPECTS, Aspect

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, BatchFeature

PAD_COLOUR = (122, 116, 104)
"""CLIP's mean colour; the kit's padding colour."""


def pad_to_square(image: Image.Image, fill: tuple[int, ...] = PAD_COLOUR) -> Image.Image:
    """Centre the image on a square of the colour ``fill`` with the longer side of the image."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def squares(
    images: Sequence[Image.Image], *, side: int, resample: int, aspect: Aspect,
    fill: tuple[int, ...] = PAD_COLOUR, squash: bool = False,
) -> Tensor:  # fmt: skip
    """Resize and crop images to the high resolution, without rescaling their values; runs in loader processes.

    Equal to ``CLIPImageProcessorPil`` up to its rescaling, but without its copies.

    Args:
        images: RGB images of any size.
        side: high resolution S; the shorter side is resized to it, then the centre is cropped.
        resample: number of Pillow's filter, as in the processor.
        aspect: ``square`` crops the centre (``pretrain``); ``pad`` pads to a square first (``finetune``, evaluation).
        fill: colour of the padding.
        squash: resize both sides to S instead of cropping, as SigLIP's preprocessing does.

    Returns:
        (I, S, S, 3) uint8.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"image aspect {aspect!r} is unknown; use one of {ASPECTS}")
    result = np.empty((len(images), side, side, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        shown = pad_to_square(image, fill) if aspect == "pad" else image
        short = min(shown.size)
        width, height = (side if squash or edge == short else int(side * edge / short) for edge in shown.size)
        left, top = (width - side) // 2, (height - side) // 2
        resized = shown.resize((width, height), Image.Resampling(resample))
        result[number] = np.asarray(resized.crop((left, top, left + side, top + side)))
    return torch.from_numpy(result)


def grey_levels(processor: BaseImageProcessor) -> Tensor:
    """Return the float32 value to which an image processor of transformers maps each uint8 value, (3, 256)."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    without = {"do_resize": False} | ({"do_center_crop": False} if hasattr(processor, "do_center_crop") else {})
    batch: BatchFeature = processor.preprocess(ramp, input_data_format="channels_last", return_tensors="pt", **without)
    levels: Tensor = batch["pixel_values"][0, :, :, 0]
    return levels


def as_floats(images: Tensor, levels: Tensor) -> Tensor:
    """Look up float values: (I, S, S, 3) uint8 and (3, 256) from :func:`grey_levels` -> (I, 3, S, S) float32.

    A lookup table instead of arithmetic makes the values equal on every device. Both tensors must be on the same one.
    """
    shift = torch.arange(0, 768, 256, dtype=torch.int32, device=images.device).view(3, 1, 1)
    return levels.flatten()[images.permute(0, 3, 1, 2) + shift]
