"""Image loading. In: a file or bytes (JPEG, PNG, …). Out: an RGB image. Imports no torch.

All images are converted to RGB by one rule: take the first frame, apply the EXIF orientation, scale 16-bit grey to 8
bits, then call Pillow's ``convert("RGB")`` (which drops an alpha channel, as the kit does).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from toolkit.file_errors import ABSENT, EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding


class ImageError(ValueError):
    """An image that cannot be read; the message names the sample, which is never replaced by another one."""


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
