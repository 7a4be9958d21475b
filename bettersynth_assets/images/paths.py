"""Image fields of the seed to files. In: an image root and a path as a row has it. Out: a file inside the root.

A row may name a file under the image root and nothing else: no URL, no absolute path, no ``..``. A link may lead to
another place under the image root, or into one of the profile's ``image_roots``.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from bettersynth_assets.config.profile import Profile, resolve
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.opening import ImageError
from toolkit.file_errors import patiently

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?i:data):", re.ASCII)
ABSOLUTE = re.compile(r"/|\\|[A-Za-z]:[/\\]", re.ASCII)  # on Windows too, so that a seed means the same everywhere
SEPARATOR = re.compile(r"[/\\]")
LONGEST = 4096
"""Characters of a path; anything longer is the image itself instead of its name."""
SHOWN = 120
Roots = tuple[str, ...]


class FolderGoneError(ImageError):
    """A missing image whose folder is missing too, or empty."""

    def __init__(self, reason: str, detail: str, folder: str = "") -> None:
        super().__init__(reason, detail)
        self.folder = folder
        """As rows spell it, with a slash at its end: the outermost folder that is missing, or the empty one."""


def image_path(root: Path | str, image: str, roots: Roots = ()) -> str:
    """The file that a row's image field means; a string, because making a ``Path`` would double the time it takes.

    Args:
        root: the image root; may itself be a link.
        image: the field as in the seed, relative, forward slashes.
        roots: further folders that links may lead to, from ``real_roots``.

    Raises:
        ImageError: ``url_refused``, ``path_escape`` or ``missing_image``.
        FolderGoneError: ``missing_image``, and its folder is missing or empty.
        EnvironmentFault: the file system does not let us look.
    """
    if URL.match(image):
        raise ImageError("url_refused", f"{_shown(image)} is a URL: fetch the image and name the file")
    if len(image) > LONGEST:
        raise ImageError("missing_image", f"{_shown(image)} is too long for a path: write the image to a file")
    if ABSOLUTE.match(image) or (".." in image and ".." in SEPARATOR.split(image)):
        raise ImageError(
            "path_escape", f"{_shown(image)} is absolute or climbs out: paths are relative to the seed file"
        )
    try:
        path, found = patiently(lambda: _look(str(root), image, roots), f"{root}/{image}", seen=False)
    except OSError as error:
        raise _missing(str(root), image, error) from None
    except ImageError:
        raise
    except ValueError as error:  # NUL or a lone surrogate in the name
        raise ImageError("missing_image", f"{_shown(image)}: {error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ImageError("missing_image", f"{_shown(image)} is not a regular file")
    return path


def real_roots(profile: Profile) -> Roots:
    """The profile's ``image_roots`` without links.

    Raises:
        ConfigError: one is not there.
    """
    found = []
    for named in profile.image_roots:
        path = Path(resolve(named)).expanduser()
        if not path.is_dir():
            raise ConfigError(
                f"image_roots: {named!r} is no folder: mount it, correct it, or take it out of the profile"
            )
        found.append(os.path.realpath(path))
    return tuple(found)


def _look(root: str, image: str, roots: Roots) -> tuple[str, os.stat_result]:
    folder, _, name = image.rpartition("/")
    path = _real_folder(root, folder, roots) + name
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        path = os.path.realpath(path)
        _check_inside(root, path, os.path.dirname(path), roots)  # noqa: PTH120 - strings, for every row
        found = os.stat(path)  # noqa: PTH116
    return path, found


@lru_cache(maxsize=4096)
def _real_folder(root: str, folder: str, roots: Roots) -> str:
    """Folders repeat row after row; they do not move while an ingest runs. A missing one raises and is not kept."""
    real = os.path.realpath(os.path.join(root, folder), strict=True)  # noqa: PTH118
    _check_inside(root, real, real, roots)
    return os.path.join(real, "")  # noqa: PTH118


def _check_inside(root: str, real: str, folder: str, roots: Roots) -> None:
    """Refuse a path, followed through every link, that leads out; ``folder`` is what would have to be allowed."""
    allowed = (_real_root(root), *roots)
    if not any(real == place or real.startswith(os.path.join(place, "")) for place in allowed):  # noqa: PTH118
        raise ImageError(
            "path_escape",
            f"a link leads out of the image root: add {folder!r} to `image_roots` in the profile to allow it ({real})",
        )


@lru_cache(maxsize=64)
def _real_root(root: str) -> str:
    return os.path.realpath(root)


def _missing(root: str, image: str, error: OSError) -> ImageError:
    """Say why a file was not found: its folder is gone too, or its name is spelled in another way."""
    detail = f"{_shown(image)}: {error.strerror}"
    if other := next(_other_spellings(root, image), None):
        return ImageError("missing_image", f"{detail}; {other}")
    parts = image.split("/")[:-1]
    above = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    if file := next((folder for folder in above if os.path.isfile(f"{root}/{folder}")), None):  # noqa: PTH113
        return ImageError("missing_image", f"{detail}; {_shown(file)} is a file: unpack it if it is an archive")
    if gone := next((folder for folder in above if not os.path.lexists(f"{root}/{folder}")), None):
        return FolderGoneError("missing_image", f"{detail}; there is no folder {_shown(gone)}", f"{gone}/")
    if above and _is_gone(f"{root}/{above[-1]}"):
        return FolderGoneError("missing_image", f"{detail}; its folder is empty or not there", f"{above[-1]}/")
    return ImageError("missing_image", detail)


def _is_gone(folder: str) -> bool:
    """True for an empty folder, as a mount point without its disk is, and for a link to nothing."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _other_spellings(root: str, image: str) -> Iterator[str]:
    """Names of files that are there and that the row may mean; never used, only shown."""
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
                words = ", ".join(filter(None, (form, norm and f"Unicode {norm}")))
                yield f"{_shown(name)} is there ({words}): write that in the seed"


def _shown(text: str) -> str:
    """A field of the seed in a message; image data in the place of a name is not repeated."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}… ({len(text)} characters)"
