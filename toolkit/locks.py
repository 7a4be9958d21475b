"""Exclusive locks between processes, on files and folders.

The kernel releases a lock when all processes that have its descriptor have exited, for any reason. A holder may remove
the file or folder that it has locked; the next process creates it again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def no_wait() -> None:
    """No-op callback of a lock that another process holds."""


def acquire(handle: int, on_wait: Callable[[], None] = no_wait) -> None:
    """Lock an open file or folder; wait until no other process holds it.

    Args:
        handle: its descriptor.
        on_wait: called once if another process holds it; may raise instead of waiting.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(handle, fcntl.LOCK_EX)


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold a file, which is created with its folder if it is missing."""
    handle = _lock(path, folder=path.parent, flags=os.O_WRONLY | os.O_CREAT, on_wait=no_wait)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def locked_folder(folder: Path, on_wait: Callable[[], None] = no_wait) -> Iterator[None]:
    """Hold a folder, which is created if it is missing; ``on_wait`` as in ``acquire``."""
    handle = _lock(folder, folder=folder, flags=os.O_RDONLY, on_wait=on_wait)
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: Path, *, folder: Path, flags: int, on_wait: Callable[[], None]) -> int:
    """Return a descriptor that holds a path; retry if another process has removed the path meanwhile."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if path.is_symlink():  # a dangling link
                raise
            continue
        try:
            acquire(handle, on_wait)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(handle).st_ino:
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
