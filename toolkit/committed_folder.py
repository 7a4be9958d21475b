"""Folders whose content one record commits: answers of a benchmark, trained models.

::

    <folder>/files …
    <folder>/<record>.json      key, sha256 of each file, and more; written last

Where the record exists, the files belong together. A folder is used only if its record has the wanted key and its files
have the recorded hashes. Writers hold the folder's lock; readers need none.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.files import flush, sha256_once, write_json


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record's values; None if it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write the record that commits a folder; all its files must be on the disk."""
    flush(path.parent)
    write_json(path, values)
    flush(path.parent)


def damaged_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return the names of files that are missing or whose sha256 is not the recorded one."""
    return [name for name, expected in files.items() if _sha256(folder / name) != expected]


def file_hashes(folder: Path) -> dict[str, str]:
    """Hashes of all files in a folder, by relative path, in the order of their names."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: sha256_once(folder / name) for name in names}


def no_wait() -> None:
    """No-op callback of a lock that is held by another process."""


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] = no_wait) -> Iterator[None]:
    """Hold a folder; a second process that wants it waits here.

    The folder is created, and removed at the end if nothing was written to it. The kernel releases the lock when the
    process exits for any reason.

    Args:
        folder: the folder.
        on_wait: called once if another process holds the folder.
    """
    handle = _lock(folder, on_wait)
    try:
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # not empty: something was committed, or can be resumed
            folder.rmdir()


def _lock(folder: Path, on_wait: Callable[[], None]) -> int:
    """Return a descriptor that holds the folder; retry if another process has removed the folder meanwhile."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if folder.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)


def _sha256(path: Path) -> str | None:
    try:
        return sha256_once(path)
    except OSError:
        return None
