"""Reads image headers without decoding pixels. In: a path and limits. Out: a ``Header``, or ``ImageError``.

Ingest reads only headers, because decoding takes many times as long. It detects in other ways what decoding would have
found: a file without its format's end marker is decoded after all, pixels are counted before any are allocated, and
the size of metadata is limited both as stored and as expanded.

The file is hashed in the same pass: it is opened once and, unless it is large, read once.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.images.opening import (
    FORMATS,
    ImageError,
    as_image_error,
    check_mode,
    content_hash,
    file_hash,
)
from bettersynth_assets.images.structure import Structure, inspect_file
from toolkit.file_errors import patiently
from toolkit.image_decoding import strict_decoding
from toolkit.images.rgb import BROKEN, TURNS, orientation_of
from toolkit.preprocess.row_kinds import HEAD, known_kind

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
READ_AT_ONCE = 8 * 2**20
"""Largest file, in bytes, that is read into memory as a whole; larger files are hashed in pieces."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Properties of an image that are known without decoding it."""

    width: int
    """Pixels, after EXIF rotation."""
    height: int
    mode: str
    """Pillow's mode of the file, before conversion to RGB."""
    format: str
    bytes: int
    image_hash: str = ""
    """``content_hash`` of the file."""
    flags: tuple[str, ...] = ()
    """``exif_rotated``, ``broken_exif``, ``animated``."""


def read_header(path: Path | str, limits: Limits) -> Header:
    """Read an image's header; decode the file only if its end is missing.

    Args:
        path: a file inside the image root (see ``images.paths.image_path``).
        limits: limits from the profile.

    Raises:
        ImageError: ``missing_image``, ``decode_error``, ``too_many_pixels``, ``too_small`` or ``metadata_bomb``.
        EnvironmentFault: the file cannot be opened or read.
    """
    try:
        return patiently(lambda: _read_file(path, limits), path, seen=False)
    except FileNotFoundError:
        raise ImageError("missing_image", f"no such file: {path}") from None
    except UnidentifiedImageError as error:
        raise _other_file(Path(path), as_image_error(error)) from None
    except (Image.DecompressionBombError, *BROKEN) as error:
        raise as_image_error(error) from None


def _other_file(path: Path, error: ImageError) -> ImageError:
    """Add the kind of a file that is not an image, e.g. an archive of images or the error page of a download."""
    with path.open("rb") as file:
        kind = known_kind(path, file.read(HEAD))
    return ImageError(error.reason, f"{error.detail}; it is {kind[0]}: name image files") if kind else error


def _read_file(path: Path | str, limits: Limits) -> Header:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise ImageError("decode_error", "the file is empty")
        if size <= READ_AT_ONCE:
            data = os.read(descriptor, size)
            while len(data) < size and (rest := os.read(descriptor, size - len(data))):
                data += rest
            return _header(io.BytesIO(data), len(data), limits, content_hash(data))
        with open(descriptor, "rb", closefd=False) as file:
            header = _header(file, size, limits)
            file.seek(0)
            return replace(header, image_hash=file_hash(file))
    finally:
        os.close(descriptor)


def _header(file: IO[bytes], size: int, limits: Limits, image_hash: str = "") -> Header:
    structure = inspect_file(file, size)
    if structure.plain and not structure.suspicious:
        width, height, mode = structure.plain
        _check_size(width, height, limits)
        return Header(width=width, height=height, mode=mode, format="JPEG", bytes=size, image_hash=image_hash)
    return _header_by_pillow(file, size, structure, limits, image_hash)


def _header_by_pillow(file: IO[bytes], size: int, structure: Structure, limits: Limits, image_hash: str) -> Header:
    _check_metadata(structure.metadata_bytes, limits)
    # Pillow reports truncated EXIF by a warning. Warning filters are global, so ingest uses processes, not threads.
    allowed = strict_decoding.allowing(pixels=limits.max_pixels, metadata_bytes=limits.max_metadata_bytes)
    with allowed, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file.seek(0)
        image: Image.Image = Image.open(file, formats=FORMATS)
        width, height = image.size
        _check_size(width, height, limits)
        check_mode(image)
        if structure.suspicious:
            image.load()
        _check_metadata(sum(len(value) for value in image.info.values() if isinstance(value, (bytes, str))), limits)
        orientation, is_complete = orientation_of(image)
    flags = {
        "exif_rotated": orientation in TURNS,
        "broken_exif": not is_complete or any(issubclass(item.category, UserWarning) for item in caught),
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
        image_hash=image_hash,
        flags=tuple(name for name, is_set in flags.items() if is_set),
    )


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels", f"{width}x{height} = {width * height} pixels > max_pixels = {limits.max_pixels}"
        )
    if min(width, height) < limits.min_side:
        raise ImageError("too_small", f"{width}x{height}: shorter side < min_side = {limits.min_side}")


def _check_metadata(size: int, limits: Limits) -> None:
    if size > limits.max_metadata_bytes:
        raise ImageError(
            "metadata_bomb", f"{size} bytes of metadata > max_metadata_bytes = {limits.max_metadata_bytes}"
        )
