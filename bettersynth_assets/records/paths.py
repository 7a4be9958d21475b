"""Image fields of the seed to files. In: an image root and a path as a row has it. Out: a file inside the root.

A row may name a file under the image root and nothing else: no URL, no absolute path, no ``..``, no link leading out.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from pathlib import Path, PureWindowsPath

from bettersynth_assets.records.images import ImageError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:", re.ASCII)


def image_path(root: Path, image: str) -> Path:
    """The file that a row's image field means.

    Args:
        root: the image root; may itself be a link.
        image: the field as in the seed, relative, forward slashes.

    Raises:
        ImageError: ``url_refused``, ``path_escape`` or ``missing_image``.
    """
    if URL.match(image):
        raise ImageError("url_refused", f"{image!r} is a URL: fetch the image and name the file")
    if image.startswith("/") or PureWindowsPath(image).drive or ".." in re.split(r"[/\\]", image):
        raise ImageError("path_escape", f"{image!r} is absolute or climbs out: image paths are relative to {root}")
    real_root = _real(str(root))
    path = os.path.join(real_root, image)  # noqa: PTH118 - three times as fast as pathlib, for every row
    try:
        found = os.lstat(path)
    except OSError as error:
        raise ImageError("missing_image", f"{image!r}: {error.strerror}") from None
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise ImageError("missing_image", f"{image!r}: {error}") from None
    if stat.S_ISLNK(found.st_mode):
        real = os.path.realpath(path)
    else:
        folder, name = os.path.split(path)
        real = os.path.join(_real(folder), name)  # noqa: PTH118
    if not real.startswith(os.path.join(real_root, "")):  # noqa: PTH118
        raise ImageError("path_escape", f"{image!r} leads to {real}, outside {real_root}")
    if not os.path.isfile(real):  # noqa: PTH113
        raise ImageError("missing_image", f"{image!r} is not a regular file")
    return Path(real)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    """Folders repeat row after row and do not move while an ingest runs."""
    return os.path.realpath(folder)
