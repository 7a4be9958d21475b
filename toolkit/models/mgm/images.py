"""Image loading and preprocessing.

In: a file or bytes (JPEG, PNG, …). Out: ``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S), float32, normalised as
for CLIP.

All images are converted to RGB by one rule: take the first frame, apply the EXIF orientation, scale 16-bit grey to 8
bits, then call Pillow's ``convert("RGB")`` (which drops an alpha channel, as the kit does).
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

from toolkit.file_errors import ABSENT, EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding
from toolkit.models.mgm.aspect import ASPECTS, Aspect

PAD_COLOUR = (122, 116, 104)
"""CLIP's mean colour; the kit's padding colour."""


class ImageError(ValueError):
    """An image that cannot be read; the message names the sample, which is never replaced by another one."""


class Pixels(NamedTuple):
    """``images`` (I, 3, s, s) and ``images_aux`` (I, 3, S, S) of the same I images."""

    images: Tensor
    images_aux: Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB by the rule of the module's docstring."""
    try:
        turned = ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error, KeyError, TypeError):
        turned = image  # invalid EXIF data does not affect the pixels
    if turned.mode.startswith("I;16") or turned.mode == "I":
        deep = np.asarray(turned.convert("I")).clip(0, 65535)
        turned = Image.fromarray((deep // 256).astype(np.uint8))
    return turned.convert("RGB")


def read_image(source: Path | bytes, *, sample_id: str) -> Image.Image:
    """Decode a file or bytes to RGB.

    Raises:
        ImageError: the image is missing, empty, truncated or invalid; the message names the sample.
        EnvironmentFault: the environment prevents reading (``toolkit.file_errors``); the message names the sample.
    """

    def decoded() -> Image.Image:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return to_rgb(opened)

    try:
        with strict_decoding:
            return decoded() if isinstance(source, bytes) else patiently(decoded, source)
    except EnvironmentFault as fault:
        if fault.code in ABSENT:
            words = f"sample {sample_id!r}: image {source!s} cannot be read ({fault}); repair or remove the row"
            raise ImageError(words) from fault
        raise EnvironmentFault(f"sample {sample_id!r}: image {fault}", fault.path, fault.code) from fault
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = "inline image" if isinstance(source, bytes) else f"image {source}"
        raise ImageError(f"sample {sample_id!r}: {where} cannot be read ({error}); repair or remove the row") from error


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
        aspect: ``square`` crops the centre (stage 1); ``pad`` pads to a square first (stage 2, evaluation).
        fill: colour of the padding.
        squash: resize both sides to S instead of cropping, as SigLIP's preprocessing does.

    Returns:
        (I, S, S, 3) uint8.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"image aspect {aspect!r} is unknown; use one of {ASPECTS}")
    made = np.empty((len(images), side, side, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        shown = pad_to_square(image, fill) if aspect == "pad" else image
        short = min(shown.size)
        width, height = (side if squash or edge == short else int(side * edge / short) for edge in shown.size)
        left, top = (width - side) // 2, (height - side) // 2
        resized = shown.resize((width, height), Image.Resampling(resample))
        made[number] = np.asarray(resized.crop((left, top, left + side, top + side)))
    return torch.from_numpy(made)


def grey_levels(processor: Any) -> Tensor:
    """Return the float32 value to which an image processor of transformers maps each uint8 value, (3, 256)."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    without = {"do_resize": False} | ({"do_center_crop": False} if hasattr(processor, "do_center_crop") else {})
    batch: Any = processor.preprocess(ramp, input_data_format="channels_last", return_tensors="pt", **without)
    levels: Tensor = batch["pixel_values"][0, :, :, 0]
    return levels


def as_floats(pictures: Tensor, levels: Tensor) -> Tensor:
    """Look up float values: (I, S, S, 3) uint8 and (3, 256) from :func:`grey_levels` -> (I, 3, S, S) float32.

    A lookup table instead of arithmetic makes the values equal on every device. Both tensors must be on the same one.
    """
    shift = torch.arange(0, 768, 256, dtype=torch.int32, device=pictures.device).view(3, 1, 1)
    return levels.flatten()[pictures.permute(0, 3, 1, 2) + shift]


def normalise(pictures: Tensor, levels: Tensor, *, image_size: int) -> Pixels:
    """Compute both inputs of the model from :func:`squares`, on their device.

    Args:
        pictures: (I, S, S, 3) uint8.
        levels: from :func:`grey_levels`, on the same device.
        image_size: side s of the low-resolution input, a bilinear downsample of the normalised high-resolution input.
    """
    aux = as_floats(pictures, levels)
    low = F.interpolate(aux, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return Pixels(low, aux)
