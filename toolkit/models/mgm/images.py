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

from toolkit.file_errors import ABSENT, EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding
from toolkit.models.mgm.aspect import ASPECTS, Aspect

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
        EnvironmentFault: the file system does not let us read it (``toolkit.file_errors``); names the sample too.
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
    """Centre the picture on a square of the colour ``fill`` whose side is the longer one."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def squares(
    images: Sequence[Image.Image], *, side: int, resample: int, aspect: Aspect,
    fill: tuple[int, ...] = PAD_COLOUR, squash: bool = False,
) -> Tensor:  # fmt: skip
    """Bring pictures to the high resolution, before any arithmetic on their values.

    Equal to ``CLIPImageProcessorPil`` up to where it rescales, without its copies: what a loader process does.

    Args:
        images: RGB pictures of any size.
        side: high resolution S; the shortest side is resized to it, then the centre cropped.
        resample: Pillow's number of the filter, as in the processor.
        aspect: ``square`` crops the centre (stage 1), ``pad`` pads to a square first (stage 2, evaluation).
        fill: colour of the padding.
        squash: resize both sides in place of cropping, as SigLIP's preprocessing does.

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
    """(3, 256) float32: what an image processor of transformers makes of each grey level in each channel."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    without = {"do_resize": False} | ({"do_center_crop": False} if hasattr(processor, "do_center_crop") else {})
    batch: Any = processor.preprocess(ramp, input_data_format="channels_last", return_tensors="pt", **without)
    levels: Tensor = batch["pixel_values"][0, :, :, 0]
    return levels


def as_floats(pictures: Tensor, levels: Tensor) -> Tensor:
    """Pictures as a model reads them: (I, S, S, 3) uint8 and (3, 256) of :func:`grey_levels` -> (I, 3, S, S) float32.

    A table instead of arithmetic: the same floats on every device, that of both tensors.
    """
    shift = torch.arange(0, 768, 256, dtype=torch.int32, device=pictures.device).view(3, 1, 1)
    return levels.flatten()[pictures.permute(0, 3, 1, 2) + shift]


def normalise(pictures: Tensor, levels: Tensor, *, image_size: int) -> Pixels:
    """Both inputs of some :func:`squares`, on the device that these are on.

    Args:
        pictures: (I, S, S, 3) uint8.
        levels: from :func:`grey_levels`, on the same device.
        image_size: side s of the low-resolution input, a bilinear downsample of the normalised high-resolution one.
    """
    aux = as_floats(pictures, levels)
    low = F.interpolate(aux, size=(image_size, image_size), mode="bilinear", align_corners=False)
    return Pixels(low, aux)
