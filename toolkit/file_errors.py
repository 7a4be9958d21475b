"""Classification of file errors: faults of the environment are retried, faults of a row quarantine the row.

fault of           examples                                                     handling
the environment    EACCES, EIO, ESTALE, timeouts, too many open files, a full   retry with exponential backoff, then
                   disk, a missing folder, a file that an earlier step has      raise ``EnvironmentFault``: the shard or
                   read and that is now missing                                 command fails, no row is quarantined
the row            bytes that are not an image, an invalid file name, a file    quarantine the row; check it again when
                   that was never read and does not exist                       its file changes

An ``OSError`` without an error number comes from a decoder (Pillow: "image file is truncated") and concerns the bytes.
Any error number that is not listed as a fault of the row counts as a fault of the environment: a row quarantined by
mistake is lost silently, while a shard that fails by mistake is visible.

``BETTERSYNTH_FILE_PATIENCE`` sets for how many seconds a call is retried (default: 2).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PATIENCE_VARIABLE = "BETTERSYNTH_FILE_PATIENCE"
PATIENCE = 2.0
FIRST_WAIT = 0.1
"""Seconds before the first retry; doubles with each retry."""
GAVE_UP_SECONDS = 60.0
"""After giving up on an error number, do not retry it for this long: the fault is not transient."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
"""A fault of the row on first access; a fault of the environment if an earlier step has read the file."""
OF_THE_ROW = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EOVERFLOW})
"""An invalid file name, or (EINVAL, EOVERFLOW) bytes that make a decoder seek outside the file."""
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Retrying does not help."""
ENVIRONMENTAL_TYPES = (PermissionError, TimeoutError, BlockingIOError, InterruptedError, ConnectionError)
"""Faults of the environment even if a library raises them without an error number."""

_FIXES = {
    errno.EACCES: "let this user read it",
    errno.EPERM: "let this user read it",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "raise the system's limit of open files (`sysctl fs.file-max`)",
    errno.ENOSPC: "free space on the disk that holds it",
    errno.EDQUOT: "free space within the quota of the disk that holds it",
    errno.EROFS: "mount it for writing, or write elsewhere (`BETTERSYNTH_DATA`)",
}
_CHECK_DISK = "check the disk or the network file system that holds it"

_gave_up: dict[int, float] = {}
"""Monotonic time at which this process last gave up on each error number."""


class EnvironmentFault(Exception):
    """A file that the environment prevents from being used. The one-line message names path, cause and fix.

    Deliberately neither an ``OSError`` nor a ``ValueError``, so that handlers that quarantine a row do not catch it.
    """

    def __init__(self, message: str, path: str = "", code: int = 0) -> None:
        super().__init__(message, path, code)
        self.path = path
        self.code = code
        """Error number; 0 if the library reported none."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_environmental(error: BaseException, *, seen: bool) -> bool:
    """Return whether an error is a fault of the environment rather than of the row.

    Args:
        error: raised while a file was opened, read or decoded.
        seen: True if an earlier step has read the file, so that its absence is not the row's fault.
    """
    if isinstance(error, EnvironmentFault):
        return True
    if not isinstance(error, OSError):
        return False
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or error.errno in ABSENT:
        return seen
    if isinstance(error, ENVIRONMENTAL_TYPES):
        return True
    return error.errno is not None and error.errno not in OF_THE_ROW


def environment_fault(error: BaseException, path: Path | str, *, seen: bool = True) -> EnvironmentFault | None:
    """Convert an error to an ``EnvironmentFault``; return None if it is a fault of the row.

    Args:
        error: raised while a file was opened, read, decoded or written.
        path: the file.
        seen: see ``is_environmental``.
    """
    if isinstance(error, EnvironmentFault):
        return error
    if not isinstance(error, OSError) or not is_environmental(error, seen=seen):
        return None
    code = error.errno or 0
    name = f" ({errno.errorcode[code]})" if code in errno.errorcode else ""
    cause = f"{error.strerror or error}{name}"
    if code in ABSENT or isinstance(error, FileNotFoundError):
        return absent(path, code or errno.ENOENT)
    return EnvironmentFault(f"{path}: {cause}: {_FIXES.get(code, _CHECK_DISK)} and run again", str(path), code)


def absent(path: Path | str, code: int = errno.ENOENT) -> EnvironmentFault:
    """Return the fault for a file that was read before and is now missing; it names the outermost missing folder."""
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.is_dir()]
    if missing:
        message = f"folder {missing[-1]} does not exist ({path} did): mount or restore it and run again"
        return EnvironmentFault(message, str(missing[-1]), code)
    message = (
        f"{path} was read before and no longer exists: restore it and run again; without it, the next run quarantines "
        "its row"
    )
    return EnvironmentFault(message, str(path), code)


def patiently(call: Callable[[], T], path: Path | str, *, seen: bool = True) -> T:
    """Call a function and retry it with exponential backoff on faults of the environment.

    Args:
        call: opens, reads or writes ``path``; must be safe to repeat.
        path: named in the fault.
        seen: see ``is_environmental``.

    Raises:
        EnvironmentFault: the call still fails after ``BETTERSYNTH_FILE_PATIENCE`` seconds.
        OSError: a fault of the row. It is not retried, nor is any other exception of ``call``.
    """
    wait, left = FIRST_WAIT, patience()
    while True:
        try:
            return call()
        except (OSError, EnvironmentFault) as error:
            fault = environment_fault(error, path, seen=seen)
            if fault is None:
                raise
            code = fault.code
            given_up = code in _gave_up and time.monotonic() - _gave_up[code] < GAVE_UP_SECONDS
            if left <= 0 or given_up or code in LASTING:
                _gave_up[code] = time.monotonic()
                raise fault from error
        time.sleep(min(wait, left))
        left, wait = left - wait, 2 * wait


def patience() -> float:
    """Return the seconds for which a call is retried."""
    try:
        return float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
    except ValueError:
        raise EnvironmentFault(
            f"{PATIENCE_VARIABLE} = {os.environ[PATIENCE_VARIABLE]!r}: set it to a number of seconds, e.g. 2"
        ) from None
