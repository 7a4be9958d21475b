"""Image fields of the seed to files. In: an image root and a path as a row has it. Out: a file inside the root.

A row may name a file under the image root and nothing else: no URL, no absolute path, no ``..``, no link leading out.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from pathlib import Path

from bettersynth_assets.records.images import ImageError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:", re.ASCII)
ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]", re.ASCII)  # on Windows too, so that a seed means the same everywhere


def image_path(root: Path | str, image: str) -> str:
    """The file that a row's image field means; a string, because making a ``Path`` would double the time it takes.

    Args:
        root: the image root; may itself be a link.
        image: the field as in the seed, relative, forward slashes.

    Raises:
        ImageError: ``url_refused``, ``path_escape`` or ``missing_image``.
    """
    if URL.match(image):
        raise ImageError("url_refused", f"{image!r} is a URL: fetch the image and name the file")
    if ABSOLUTE.match(image) or ".." in re.split(r"[/\\]", image):
        raise ImageError("path_escape", f"{image!r} is absolute or climbs out: paths are relative to the image root")
    folder, _, name = image.rpartition("/")
    try:
        path = _real_folder(str(root), folder) + name
        found = os.lstat(path)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError("missing_image", f"{image!r}: {error.strerror}") from None
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise ImageError("missing_image", f"{image!r}: {error}") from None
    if stat.S_ISLNK(found.st_mode):
        path = _inside(str(root), path)
        found = os.stat(path) if os.path.exists(path) else found  # noqa: PTH110, PTH116
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("missing_image", f"{image!r} is not a regular file")
    return path


@lru_cache(maxsize=4096)
def _real_folder(root: str, folder: str) -> str:
    """Folders repeat row after row; they do not move while an ingest runs."""
    return os.path.join(_inside(root, os.path.join(root, folder)), "")  # noqa: PTH118


def _inside(root: str, path: str) -> str:
    """Follow every link of a path and refuse one that leads out."""
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if real != real_root and not real.startswith(os.path.join(real_root, "")):  # noqa: PTH118
        raise ImageError("path_escape", f"a link leads out of the image root, to {real}")
    return real
