"""Disk errors of the data root. In: an ``OSError`` of a write. Out: a one-line message that names the path and the fix.

A full disk, a read-only file system or a missing permission affects every shard. It is therefore a ``UserError``: the
run stops at once, and committed results are kept.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bettersynth_assets.errors import UserError
from toolkit.file_errors import EnvironmentFault

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
CANNOT_WRITE = frozenset({*FULL, errno.EROFS, errno.EACCES, errno.EPERM})
_IN_THE_WAY = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT})
_ROOT = "or set BETTERSYNTH_DATA to a writable folder"


class StorageError(UserError):
    """A path of the data root that cannot be read or written."""


@contextmanager
def naming_the_path(folder: Path) -> Iterator[None]:
    """Convert write errors below ``folder`` to a ``StorageError``; other errors propagate unchanged.

    Raises:
        StorageError: any disk is full, or a path below ``folder`` cannot be written.
    """
    try:
        yield
    except (OSError, EnvironmentFault) as error:
        reported = storage_error(error, folder)
        if reported is None:
            raise
        raise reported from error


def storage_error(error: OSError | EnvironmentFault, folder: Path) -> StorageError | None:
    """Return the ``StorageError`` for a write error below ``folder``; None for any other error."""
    code = error.errno if isinstance(error, OSError) else error.code
    named = error.filename if isinstance(error, OSError) else error.path
    path = Path(named) if isinstance(named, str) and named else folder
    if code in FULL:
        return StorageError(
            f"{path}: no space left on the disk, or quota exceeded. Finished results are intact: free space, "
            f"{_ROOT}, and run again"
        )
    if code == errno.EROFS:
        return StorageError(f"{path}: the file system is read-only: mount it for writing, {_ROOT}")
    if not named or (not path.is_relative_to(folder) and not folder.is_relative_to(path)):
        return None
    if code in (errno.EACCES, errno.EPERM):
        return StorageError(f"{path}: permission denied: let this user write there, {_ROOT}")
    if code in _IN_THE_WAY and (blocking := _blocking(folder)):
        return StorageError(f"{blocking}, but a folder is needed there: move it away, {_ROOT}")
    return None


def is_read_only(error: OSError | EnvironmentFault) -> bool:
    """Return whether a write error means that this user cannot write there at all."""
    return (error.errno if isinstance(error, OSError) else error.code) in CANNOT_WRITE - FULL


def _blocking(folder: Path) -> str:
    """Describe what blocks the creation of a folder: a file or dangling link in its path. Empty if nothing does."""
    for path in (*reversed(folder.parents), folder):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which does not exist"
        if path.exists() and not path.is_dir():
            return f"{path} is a file"
    return ""
