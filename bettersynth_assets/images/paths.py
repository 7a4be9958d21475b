"""Resolves image fields of rows. In: an image root and a row's image field. Out: the path of a file inside the root.

A row may only name a file under the image root: no URL, no absolute path, no ``..``. A symbolic link may point to
another path under the image root, or into one of the profile's ``image_roots``.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from bettersynth_assets.config.profile import absolute
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.opening import ImageError
from toolkit.file_errors import patiently

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?i:data):", re.ASCII)
ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]", re.ASCII)  # Windows paths too, on every system
SEPARATOR = re.compile(r"[/\\]")
LONGEST = 4096
"""Maximum length of a path in characters; a longer field holds image data, not a path."""
SHOWN = 120
Roots = tuple[str, ...]


class FolderGoneError(ImageError):
    """A missing image whose folder is missing or empty."""

    def __init__(self, reason: str, detail: str, folder: str = "") -> None:
        super().__init__(reason, detail)
        self.folder = folder
        """The outermost missing folder, or the empty folder, as rows spell it, with a trailing slash."""


def image_path(root: Path | str, image: str, roots: Roots = ()) -> str:
    """Resolve a row's image field to a file.

    Args:
        root: the image root; may be a symbolic link.
        image: the field as in the seed: relative, with forward slashes.
        roots: further folders that links may point into, from ``real_roots``.

    Returns:
        The path, as a string: creating a ``Path`` would double the time of this call.

    Raises:
        ImageError: ``url_refused``, ``path_escape`` or ``missing_image``.
        FolderGoneError: ``missing_image``, and the image's folder is missing or empty.
        EnvironmentFault: the file system does not allow access.
    """
    if URL.match(image):
        raise ImageError("url_refused", f"{_quoted(image)} is a URL: download the image and name the file")
    if len(image) > LONGEST:
        raise ImageError("missing_image", f"{_quoted(image)} is too long for a path: write the image to a file")
    if ABSOLUTE.match(image) or (".." in image and ".." in SEPARATOR.split(image)):
        raise ImageError(
            "path_escape", f"{_quoted(image)} is absolute or contains `..`: write a path relative to the seed file"
        )
    try:
        path, status = patiently(lambda: _resolve(str(root), image, roots), f"{root}/{image}", seen=False)
    except OSError as error:
        raise _missing_image_error(str(root), image, error) from None
    except ImageError:
        raise
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise ImageError("missing_image", f"{_quoted(image)}: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("missing_image", f"{_quoted(image)} is not a regular file")
    return path


def real_roots(image_roots: Iterable[str]) -> Roots:
    """Resolve the symbolic links of a profile's ``image_roots``.

    Raises:
        ConfigError: a folder does not exist.
    """
    resolved = []
    for name in image_roots:
        path = absolute(name)
        if not path.is_dir():
            raise ConfigError(
                f"image_roots: {name!r} is not a folder: mount it, correct it, or remove it from the profile"
            )
        resolved.append(os.path.realpath(path))
    return tuple(resolved)


def _resolve(root: str, image: str, roots: Roots) -> tuple[str, os.stat_result]:
    folder, _, name = image.rpartition("/")
    path = _real_folder(root, folder, roots) + name
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        path = os.path.realpath(path)
        _check_inside(root, path, os.path.dirname(path), roots)  # noqa: PTH120 - strings are faster; runs for every row
        status = os.stat(path)  # noqa: PTH116
    return path, status


@lru_cache(maxsize=4096)
def _real_folder(root: str, folder: str, roots: Roots) -> str:
    """Resolve a folder; cached, because rows share folders. A missing folder raises and is not cached."""
    real = os.path.realpath(os.path.join(root, folder), strict=True)  # noqa: PTH118
    _check_inside(root, real, real, roots)
    return os.path.join(real, "")  # noqa: PTH118


def _check_inside(root: str, real: str, folder: str, roots: Roots) -> None:
    """Refuse a resolved path outside the allowed roots; the error names ``folder`` as the root to add."""
    allowed = (_real_root(root), *roots)
    if not any(real == allowed_root or real.startswith(os.path.join(allowed_root, "")) for allowed_root in allowed):  # noqa: PTH118
        raise ImageError(
            "path_escape",
            f"a link points out of the image root: add {folder!r} to `image_roots` in the profile to allow it ({real})",
        )


@lru_cache(maxsize=64)
def _real_root(root: str) -> str:
    return os.path.realpath(root)


def _missing_image_error(root: str, image: str, error: OSError) -> ImageError:
    """Explain a missing file: its folder is missing too, or the file exists under another spelling."""
    detail = f"{_quoted(image)}: {error.strerror}"
    if spelling := next(_other_spellings(root, image), None):
        return ImageError("missing_image", f"{detail}; {spelling}")
    folders = image.split("/")[:-1]
    above = ["/".join(folders[: number + 1]) for number in range(len(folders))]
    if file := next((folder for folder in above if os.path.isfile(f"{root}/{folder}")), None):  # noqa: PTH113
        return ImageError("missing_image", f"{detail}; {_quoted(file)} is a file: unpack it if it is an archive")
    if missing := next((folder for folder in above if not os.path.lexists(f"{root}/{folder}")), None):
        return FolderGoneError("missing_image", f"{detail}; folder {_quoted(missing)} does not exist", f"{missing}/")
    if above and _is_empty_or_missing(f"{root}/{above[-1]}"):
        return FolderGoneError("missing_image", f"{detail}; its folder is empty or missing", f"{above[-1]}/")
    return ImageError("missing_image", detail)


def _is_empty_or_missing(folder: str) -> bool:
    """Return whether a folder is empty, like a mount point without its disk, or a dangling link."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _other_spellings(root: str, image: str) -> Iterator[str]:
    """Yield existing files that the row may mean, for the error message only; they are never opened."""
    slashes = image.replace("\\", "/")
    forms = {
        "forward slashes": slashes,
        "percent-decoded": unquote(image),
        "percent-decoded, slashes": unquote(slashes),
    }
    for form, changed in [("", image), *forms.items()]:
        for norm in ("", "NFC", "NFD"):
            name = unicodedata.normalize(norm, changed) if norm else changed  # type: ignore[arg-type]
            if name == image or ABSOLUTE.match(name) or ".." in SEPARATOR.split(name) or "\0" in name:
                continue
            if os.path.lexists(f"{root}/{name}"):
                difference = ", ".join(filter(None, (form, norm and f"Unicode {norm}")))
                yield f"{_quoted(name)} exists ({difference}): write that in the seed"


def _quoted(text: str) -> str:
    """Quote a field of the seed for a message, cut to ``SHOWN`` characters: it may hold image data."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}… ({len(text)} characters)"
