"""Quick check of a benchmark's images before answering. In: files or bytes. Out: the first broken image.

Decoding all images up front would take about as long as preparing them for the model. So a JPEG that ends with its end
marker is checked by its header alone, a PNG by its checksums; every other image is decoded. Damage inside a file is
found when the image is used.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from toolkit.file_errors import patiently
from toolkit.image_decoding import strict_decoding
from toolkit.images.rgb import BROKEN

_JPEG_END = b"\xff\xd9"


def first_broken(images: Iterable[tuple[str, Path | bytes]]) -> tuple[str, str] | None:
    """Id and fault of the first image that is missing, truncated or not an image; None if there is none.

    Args:
        images: pairs of id and file or bytes; an image that several ids share is read once.
    """
    seen: set[Path | bytes] = set()
    for id_, image in images:
        if image not in seen:
            seen.add(image)
            fault = fault_of(image)
            if fault:
                return id_, fault
    return None


def fault_of(image: Path | bytes) -> str | None:
    """Why an image cannot be decoded, or None.

    Raises:
        EnvironmentFault: the environment prevents reading the file.
    """
    where = "its inline image" if isinstance(image, bytes) else f"image {image}"
    try:
        if isinstance(image, bytes):
            _look(io.BytesIO(image))
        else:
            patiently(partial(_look_at, image), image, seen=False)
    except FileNotFoundError:
        return f"{where} is missing"
    except UnidentifiedImageError:
        return f"{where} is no image of a known format"
    except (Image.DecompressionBombError, *BROKEN) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"{where} cannot be read ({reason})"
    return None


def _look_at(path: Path) -> None:
    with path.open("rb") as file:
        _look(file)


def _look(file: IO[bytes]) -> None:
    with strict_decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes and EXIF, not about broken images
        _decode_where_needed(file)


def _decode_where_needed(file: IO[bytes]) -> None:
    with Image.open(file) as image:
        if image.format == "PNG":
            image.verify()
            return
        if image.format in ("JPEG", "MPO"):
            file.seek(-len(_JPEG_END), io.SEEK_END)
            if file.read() == _JPEG_END:
                return
        file.seek(0)
    file.seek(0)
    with Image.open(file) as image:
        image.load()
