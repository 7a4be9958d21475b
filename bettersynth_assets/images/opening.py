"""Opens image files. In: the path of an image file. Out: an RGB image, or ``ImageError``.

Every stage that reads pixels calls ``open_rgb``, so that all of them see the same pixels. EXIF (or XMP) rotation is
applied; width and height everywhere in the project are those after rotation. Conversion to RGB, by mode (training and
evaluation follow the kit's rule instead; ``toolkit.images.rgb`` has both):

RGB, L, 1, P, YCbCr, CMYK, HSV   Pillow's conversion to RGB
RGBA, LA, PA, P and others with a transparent colour   composed on white
I;16 (any byte order), I         16-bit grey: round(value / 257), values outside 0..65535 clipped
several frames                   the first frame
F, LAB and other modes           refused (``decode_error``)

Decoding is strict: a truncated image is an error even if another library in this process has set Pillow to accept it.
A fault of the environment (``toolkit.file_errors``) is not an ``ImageError``: it fails the shard.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import xxhash
from PIL import Image, UnidentifiedImageError

from toolkit.file_errors import EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding
from toolkit.images.rgb import BROKEN, DEEP_MODES, upright_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no format that runs an external program, as EPS does
PLAIN_MODES = ("RGB", "L", "1", "P", "YCbCr", "CMYK", "HSV", "RGBX")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
KNOWN_MODES = PLAIN_MODES + ALPHA_MODES + DEEP_MODES


class ImageError(ValueError):
    """An image that cannot be used: ``reason`` for the quarantine table, and ``detail`` with what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def open_rgb(path: Path) -> Image.Image:
    """Decode an image that ingest has read before, strictly, and convert it to RGB as described above.

    Returns:
        An image of mode RGB, loaded, with the rotation applied and no file left open.

    Raises:
        ImageError: ``decode_error``, ``too_many_pixels`` or ``metadata_bomb``: the file's bytes are at fault.
        EnvironmentFault: the file cannot be opened or read, or is missing.
    """
    with strict_decoding:
        try:
            return patiently(lambda: _decode(path), path)
        except (Image.DecompressionBombError, *BROKEN) as error:
            raise as_image_error(error) from None


def _decode(path: Path) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        check_mode(image)
        return upright_rgb(image, "data")


def content_hash(data: bytes) -> str:
    """Hash an image file's bytes for use in keys: XXH3, 128 bits, hexadecimal.

    It detects a replaced file, 13 times as fast as SHA-256, but it is not resistant to deliberate collisions.
    """
    return xxhash.xxh3_128_hexdigest(data)


def file_hash(file: IO[bytes]) -> str:
    """Compute ``content_hash`` of an open file from its current position on, in pieces."""
    hasher = xxhash.xxh3_128()
    while block := file.read(2**20):
        hasher.update(block)
    return hasher.hexdigest()


def file_hash_at(path: Path) -> str:
    """Compute ``content_hash`` of an existing file.

    Raises:
        EnvironmentFault: the file cannot be read, or is missing.
    """

    def compute() -> str:
        with path.open("rb") as file:
            return file_hash(file)

    return patiently(compute, path)


def check_unchanged(path: Path, image_hash: str | None) -> None:
    """Check that a file that failed to decode is still the file that ingest read.

    Args:
        path: the file.
        image_hash: the row's hash; None (unknown) skips the check.

    Raises:
        EnvironmentFault: the file has changed, or cannot be read.
    """
    if image_hash is not None and file_hash_at(path) != image_hash:
        raise EnvironmentFault(f"{path} has changed since its row was read: run again", str(path))


def check_mode(image: Image.Image) -> None:
    """Check that an image's mode can be converted to RGB.

    Raises:
        ImageError: ``decode_error``.
    """
    if image.mode not in KNOWN_MODES:
        raise ImageError("decode_error", f"colour mode {image.mode} cannot be converted to RGB")


def as_image_error(error: BaseException) -> ImageError:
    """Convert an error of Pillow to an ``ImageError`` with a reason for the quarantine table."""
    if isinstance(error, ImageError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # Pillow's message holds an absolute path
        return ImageError("decode_error", f"not an image in one of the formats {', '.join(FORMATS)}")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_many_pixels", text)
    # Pillow limits the expanded size of a PNG's text and colour profile; only the message tells this error apart.
    bomb = isinstance(error, ValueError) and ("too large" in text or "Too much memory" in text)
    return ImageError("metadata_bomb" if bomb else "decode_error", text)
