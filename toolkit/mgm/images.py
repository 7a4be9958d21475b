"""One image from a file or from base64 to the two tensors that MGM reads.

In: JPEG, PNG, ... bytes. Out: ``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S), float32, normalised as CLIP's.

One rule makes every picture RGB: the first frame, turned as EXIF says, 16-bit grey scaled to 8 bits, then Pillow's
``convert("RGB")`` (which drops an alpha channel, as the kit does).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import CLIPImageProcessor

from toolkit.mgm.aspect import ASPECTS, Aspect

PAD_COLOUR = (122, 116, 104)
"""CLIP's mean colour, which the kit pads with."""


class ImageError(ValueError):
    """An image that cannot be read. Names the sample; it is never replaced by another one."""


class Pixels(NamedTuple):
    """``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S) of the same I pictures."""

    images: Tensor
    images_aux: Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Apply the one RGB rule of this module."""
    try:
        turned = ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error, KeyError, TypeError):
        turned = image  # a broken EXIF block says nothing about the pixels
    if turned.mode.startswith("I;16") or turned.mode == "I":
        deep = np.asarray(turned.convert("I")).clip(0, 65535)
        turned = Image.fromarray((deep // 256).astype(np.uint8))
    return turned.convert("RGB")


def read_image(source: Path | bytes, *, sample_id: str) -> Image.Image:
    """Decode a file or bytes to RGB.

    Raises:
        ImageError: missing, empty, truncated or no image; the message names the sample.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return to_rgb(opened)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = "inline image" if isinstance(source, bytes) else f"image {source}"
        raise ImageError(f"sample {sample_id!r}: {where} cannot be read ({error}); repair or remove the row") from error


def pad_to_square(image: Image.Image) -> Image.Image:
    """Centre the picture on a square of ``PAD_COLOUR`` whose side is the longer one."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), PAD_COLOUR)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _normalised(image: Image.Image, processor: CLIPImageProcessor) -> Tensor:
    batch: Any = processor.preprocess(image, return_tensors="pt")
    pixels: Tensor = batch["pixel_values"]
    return pixels


def preprocess(
    images: Sequence[Image.Image], processor: CLIPImageProcessor, *, image_size: int, aspect: Aspect
) -> Pixels:
    """Make both inputs of each picture.

    Args:
        images: RGB pictures of any size.
        processor: CLIP's preprocessing (shortest side resized, centre crop, normalised) set to the high resolution.
        image_size: side of the low-resolution input, a bilinear downsample of the normalised high-resolution one.
        aspect: ``square`` crops the centre (stage 1), ``pad`` pads to a square first (stage 2, evaluation).
    """
    if aspect not in ASPECTS:
        raise ValueError(f"image aspect {aspect!r} is unknown; use one of {ASPECTS}")
    shown = [pad_to_square(image) if aspect == "pad" else image for image in images]
    aux = torch.cat([_normalised(image, processor) for image in shown])
    low = F.interpolate(aux, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return Pixels(low, aux)
