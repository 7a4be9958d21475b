"""The one way to image files. In: a path. Out: a ``Header`` (no pixels decoded) or an RGB image; else ``ImageError``.

Every stage that looks at pixels comes through ``open_rgb``, so that all of them see the same ones:

EXIF (or XMP) rotation is applied once; width and height everywhere are those after it
RGB, L, 1, P, YCbCr, CMYK, HSV   Pillow's conversion to RGB
RGBA, LA, PA, P and others with a transparent colour   composed on white
I;16 (any byte order), I         16-bit grey: round(value / 257), values outside 0..65535 clipped
several frames                   the first
F, LAB and other modes           refused (``decode_error``)

Decoding is strict: half an image is an error, even where another library has told Pillow in this process to accept it.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import ExifTags, Image, ImageFile

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.records.structure import look

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
SIDEWAYS = (5, 6, 7, 8)
PLAIN_MODES = ("RGB", "L", "1", "P", "YCbCr", "CMYK", "HSV", "RGBX")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
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


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of an image without its pixels."""

    width: int
    """Pixels, after EXIF rotation."""
    height: int
    mode: str
    """Pillow's mode of the file, before the RGB rule."""
    format: str
    bytes: int
    flags: tuple[str, ...] = ()
    """``exif_rotated``, ``broken_exif``, ``animated``."""


class _StrictDecoding:
    """Pillow refuses truncated files while any thread is inside; what another library had set comes back after."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._saved


strict_decoding = _StrictDecoding()


def open_rgb(path: Path) -> Image.Image:
    """Decode an image strictly and bring it to RGB by the rule above.

    Returns:
        An image of mode RGB, loaded, with the rotation applied and no file left open.

    Raises:
        ImageError: ``missing_image``, ``decode_error``, ``too_many_pixels`` or ``metadata_bomb``.
    """
    with strict_decoding:
        try:
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                turn = TURNS.get(_orientation(image)[0])
                rgb = _to_rgb(image)
        except FileNotFoundError:
            raise ImageError("missing_image", f"no such file: {path}") from None
        except (Image.DecompressionBombError, *BROKEN) as error:
            raise _as_image_error(error) from None
    return rgb if turn is None else rgb.transpose(turn)


def read_header(path: Path, limits: Limits) -> Header:
    """Read what is known of an image without decoding it; only a file whose end is missing is decoded.

    Args:
        path: a file inside the image root (see ``records.paths.image_path``).
        limits: bounds from the profile.

    Raises:
        ImageError: ``missing_image``, ``decode_error``, ``too_many_pixels``, ``too_small`` or ``metadata_bomb``.
    """
    # Pillow says by a warning that EXIF is cut off; the filter is the process's, so ingest uses processes, not threads.
    with strict_decoding, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with path.open("rb") as file:
                return _read_header(file, limits, said)
        except FileNotFoundError:
            raise ImageError("missing_image", f"no such file: {path}") from None
        except ImageError:
            raise
        except (Image.DecompressionBombError, *BROKEN) as error:
            raise _as_image_error(error) from None


def _read_header(file: Any, limits: Limits, said: list[warnings.WarningMessage]) -> Header:
    size = file.seek(0, 2)
    if size == 0:
        raise ImageError("decode_error", "the file is empty")
    structure = look(file, size)
    _check_metadata(structure.metadata_bytes, limits)
    file.seek(0)
    image: Image.Image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError("too_many_pixels", f"{width}x{height} = {width * height} pixels > {limits.max_pixels}")
    if min(width, height) < limits.min_side:
        raise ImageError("too_small", f"{width}x{height}: shorter side under {limits.min_side}")
    if image.mode not in PLAIN_MODES + ALPHA_MODES + DEEP_MODES:
        raise ImageError("decode_error", f"mode {image.mode} has no rule to RGB")
    if structure.suspicious:
        image.load()
    _check_metadata(sum(len(value) for value in image.info.values() if isinstance(value, (bytes, str))), limits)
    orientation, whole = _orientation(image)
    bomb = Image.DecompressionBombWarning  # about pixels, which have their own limit
    flags = {
        "exif_rotated": orientation in TURNS,
        "broken_exif": not whole or any(not issubclass(item.category, bomb) for item in said),
        "animated": image.format != "MPO" and bool(getattr(image, "is_animated", False)),
    }
    if orientation in SIDEWAYS:
        width, height = height, width
    return Header(
        width=width,
        height=height,
        mode=image.mode,
        format=image.format or "",
        bytes=size,
        flags=tuple(name for name, is_set in flags.items() if is_set),
    )


def _check_metadata(found: int, limits: Limits) -> None:
    if found > limits.max_metadata_bytes:
        raise ImageError("metadata_bomb", f"{found} bytes of metadata > {limits.max_metadata_bytes}")


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """EXIF or XMP orientation, 1 where there is none, and whether the metadata could be read."""
    try:
        # The base class's reader: the one for PNG decodes every image that has no EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1, False
    return (value, True) if isinstance(value, int) else (1, False)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        return _from_16_bit(image)
    if image.mode not in PLAIN_MODES + ALPHA_MODES:
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


def _as_image_error(error: BaseException) -> ImageError:
    """Name what Pillow found by a word of the quarantine table."""
    if isinstance(error, ImageError):
        return error
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_many_pixels", text)
    # Pillow bounds what a PNG's text and colour profile may expand to, and says so only in words.
    bomb = isinstance(error, ValueError) and ("too large" in text or "Too much memory" in text)
    return ImageError("metadata_bomb" if bomb else "decode_error", text)
