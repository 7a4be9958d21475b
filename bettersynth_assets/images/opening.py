"""The one way to pixels. In: the path of an image file. Out: an RGB image; else ``ImageError``.

Every stage that looks at pixels comes through ``open_rgb``, so that all of them see the same ones:

EXIF (or XMP) rotation is applied once; width and height everywhere are those after it
RGB, L, 1, P, YCbCr, CMYK, HSV   Pillow's conversion to RGB
RGBA, LA, PA, P and others with a transparent colour   composed on white
I;16 (any byte order), I         16-bit grey: round(value / 257), values outside 0..65535 clipped
several frames                   the first
F, LAB and other modes           refused (``decode_error``)

Decoding is strict: half an image is an error, even where another library has told Pillow in this process to accept it.
A file that the environment keeps from us (``toolkit.file_errors``) is no ``ImageError``: it fails the shard.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO

import xxhash
from PIL import ExifTags, Image, UnidentifiedImageError

from toolkit.file_errors import EnvironmentFault, patiently
from toolkit.image_decoding import strict_decoding

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that runs another program, as EPS does
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PLAIN_MODES = ("RGB", "L", "1", "P", "YCbCr", "CMYK", "HSV", "RGBX")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
KNOWN_MODES = PLAIN_MODES + ALPHA_MODES + DEEP_MODES
# What Pillow's readers raise on broken files; anything else is a bug and goes up.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error, OverflowError)


class ImageError(ValueError):
    """An image that cannot be used. ``reason`` is one word for the quarantine table, ``detail`` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def open_rgb(path: Path) -> Image.Image:
    """Decode an image that ingest has seen, strictly, and bring it to RGB by the rule above.

    Returns:
        An image of mode RGB, loaded, with the rotation applied and no file left open.

    Raises:
        ImageError: ``decode_error``, ``too_many_pixels`` or ``metadata_bomb``: a fault of the bytes.
        EnvironmentFault: the file cannot be opened or read, or is gone.
    """
    with strict_decoding:
        try:
            rgb, turn = patiently(lambda: _decoded(path), path)
        except (Image.DecompressionBombError, *BROKEN) as error:
            raise as_image_error(error) from None
    return rgb if turn is None else rgb.transpose(turn)


def _decoded(path: Path) -> tuple[Image.Image, Image.Transpose | None]:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        turn = TURNS.get(orientation_of(image)[0])
        return _to_rgb(image), turn


def content_hash(data: bytes) -> str:
    """The hash that stands for an image file's bytes in every key: 128 bits of XXH3, hexadecimal.

    It tells a replaced file from the one before, 13 times as fast as SHA-256; it does not withstand somebody who makes
    two files with the same hash on purpose.
    """
    return xxhash.xxh3_128_hexdigest(data)


def file_hash(file: IO[bytes]) -> str:
    """``content_hash`` of a file from its position on, a piece at a time."""
    found = xxhash.xxh3_128()
    while piece := file.read(2**20):
        found.update(piece)
    return found.hexdigest()


def hash_at(path: Path) -> str:
    """``content_hash`` of a file that is there.

    Raises:
        EnvironmentFault: it cannot be read, or is gone.
    """

    def read() -> str:
        with path.open("rb") as file:
            return file_hash(file)

    return patiently(read, path)


def check_unchanged(path: Path, image_hash: str | None) -> None:
    """Make sure that a file that failed is the one that ingest saw, before its row is blamed.

    Args:
        path: the file.
        image_hash: of the row; None where it is not known, and nothing is checked.

    Raises:
        EnvironmentFault: it is another one, or cannot be read.
    """
    if image_hash is not None and hash_at(path) != image_hash:
        raise EnvironmentFault(f"{path} was changed since seed_dataset read it: run again", str(path))


def orientation_of(image: Image.Image) -> tuple[int, bool]:
    """EXIF or XMP orientation, 1 where there is none, and whether the metadata could be read."""
    try:
        if "exif" in image.info:
            Image.Exif().load(image.info["exif"])  # anew: what opening the file did with broken EXIF is not told
        # The base class's reader: the one for PNG decodes every image that has no EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1, False
    return (value, True) if isinstance(value, int) else (1, False)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        return _from_16_bit(image)
    if image.mode not in KNOWN_MODES:
        raise ImageError("decode_error", f"mode {image.mode} has no rule to RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")  # a copy also of an RGB image, so that the file can be closed


def _from_16_bit(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def as_image_error(error: BaseException) -> ImageError:
    """Name what Pillow found by a word of the quarantine table."""
    if isinstance(error, ImageError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):  # its own words hold the path of this machine
        return ImageError("decode_error", f"not an image in one of the formats {', '.join(FORMATS)}")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_many_pixels", text)
    # Pillow bounds what a PNG's text and colour profile may expand to, and says so only in words.
    bomb = isinstance(error, ValueError) and ("too large" in text or "Too much memory" in text)
    return ImageError("metadata_bomb" if bomb else "decode_error", text)
