"""The rule about files that cannot be opened or read: whose fault it is, and what is done about it.

fault of           examples                                                      what is done
the environment    EACCES, EIO, ESTALE, time-outs, too many open files, a full   tried again with growing waits, then
                   disk, a folder that is not there, a file that is gone         ``EnvironmentFault``: the shard or the
                   although an earlier step saw it                               command fails, no row is blamed
the row            the bytes are no image; a name that no file can have; a       the row is quarantined, and looked at
                   file that nobody has seen yet and that is not there           again when its file changes

``OSError`` without an error number comes from a decoder (Pillow: "image file is truncated"), so it is about the bytes.
Every error number that is not listed as a fault of the row counts as one of the environment: a row that is blamed
wrongly is lost silently, a shard that fails wrongly says so.

``BETTERSYNTH_FILE_PATIENCE`` is how many seconds a call is tried for, 2 by default.
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
"""Seconds before the second try; each further wait is twice as long."""
GAVE_UP_SECONDS = 60.0
"""For so long after giving up, the same kind of fault is not waited for: it is not a passing one."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
"""The row's fault at first sight; the environment's where an earlier step has seen the file."""
OF_THE_ROW = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EOVERFLOW})
"""A name that no file can have, or (EINVAL, EOVERFLOW) bytes that send a decoder outside the file."""
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Waiting does not help."""
ENVIRONMENTAL_TYPES = (PermissionError, TimeoutError, BlockingIOError, InterruptedError, ConnectionError)
"""Environmental also where a library raises them without an error number."""

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
"""When each kind of fault, by error number, was last given up on in this process."""


class EnvironmentFault(Exception):
    """A file that the environment keeps from us. The message names path, cause and fix, in one line.

    Neither an ``OSError`` nor a ``ValueError``: whatever catches those to blame a row must let this one pass.
    """

    def __init__(self, message: str, path: str = "", code: int = 0) -> None:
        super().__init__(message, path, code)
        self.path = path
        self.code = code
        """Error number; 0 where a library gave none."""

    def __str__(self) -> str:
        return str(self.args[0])


def is_environmental(error: BaseException, *, seen: bool) -> bool:
    """Tell an error of the environment from a fault of the row.

    Args:
        error: what opening, reading or decoding a file raised.
        seen: True where an earlier step has read the file, so that its absence is not the row's fault.
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
    """The fault that an error amounts to, or None where it is the row's.

    Args:
        error: what opening, reading, decoding or writing raised.
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
    """The fault of a file that was seen before and is gone; names the outermost folder that is missing."""
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.is_dir()]
    if missing:
        message = f"folder {missing[-1]} is not there ({path} was): mount it or put it back and run again"
        return EnvironmentFault(message, str(missing[-1]), code)
    message = (
        f"{path} was read before and is gone: put it back and run again; without it, the next run quarantines its row"
    )
    return EnvironmentFault(message, str(path), code)


def patiently(call: Callable[[], T], path: Path | str, *, seen: bool = True) -> T:
    """Call, and call again with growing waits while the environment fails.

    Args:
        call: opens, reads or writes ``path``; must be safe to repeat.
        path: named in the fault.
        seen: see ``is_environmental``.

    Raises:
        EnvironmentFault: it still fails after ``BETTERSYNTH_FILE_PATIENCE`` seconds.
        OSError: a fault of the row, at once; likewise whatever else ``call`` raises.
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
    """Seconds that a call is tried for."""
    try:
        return float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
    except ValueError:
        raise EnvironmentFault(
            f"{PATIENCE_VARIABLE} = {os.environ[PATIENCE_VARIABLE]!r}: write seconds, e.g. 2"
        ) from None
