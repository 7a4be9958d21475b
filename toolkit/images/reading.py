"""Image loading for training and evaluation. In: a file or bytes. Out: an RGB image, by the kit's rule.

Imports no torch.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from toolkit.file_errors import ABSENT, EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding
from toolkit.images.rgb import BROKEN, upright_rgb


class ImageError(ValueError):
    """An image that cannot be read; the message names the sample, which is never replaced by another one."""


def read_image(source: Path | bytes, *, sample_id: str) -> Image.Image:
    """Decode a file or bytes to RGB.

    Raises:
        ImageError: the image is missing, empty, truncated or invalid; the message names the sample.
        EnvironmentFault: the environment prevents reading (``toolkit.file_errors``); the message names the sample.
    """

    def decoded() -> Image.Image:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return upright_rgb(opened, "kit")

    try:
        with strict_decoding:
            return decoded() if isinstance(source, bytes) else patiently(decoded, source)
    except EnvironmentFault as fault:
        if fault.code in ABSENT:
            message = f"sample {sample_id!r}: image {source!s} cannot be read ({fault}); repair or remove the row"
            raise ImageError(message) from fault
        raise EnvironmentFault(f"sample {sample_id!r}: image {fault}", fault.path, fault.code) from fault
    except (Image.DecompressionBombError, *BROKEN) as error:
        where = "inline image" if isinstance(source, bytes) else f"image {source}"
        raise ImageError(f"sample {sample_id!r}: {where} cannot be read ({error}); repair or remove the row") from error
