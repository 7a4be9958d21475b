"""Folders whose content one record commits: answers of a benchmark, trained models.

::

    <folder>/files …
    <folder>/<record>.json      key, sha256 of each file, and more; written last

Where the record exists, the files belong together. A folder is used only if its record has the wanted key and its files
have the recorded hashes. Writers hold the folder's lock; readers need none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from toolkit.files import flush, sha256_once, write_json
from toolkit.locks import locked_folder, no_wait


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


@contextmanager
def locked(folder: Path, on_wait: Callable[[], None] = no_wait) -> Iterator[None]:
    """Hold a folder; a second process that wants it waits here.

    The folder is created, and removed at the end if nothing was written to it.

    Args:
        folder: the folder.
        on_wait: called once if another process holds the folder.
    """
    with locked_folder(folder, on_wait):
        try:
            yield
        finally:
            with suppress(OSError):  # not empty: something was committed, or can be resumed
                folder.rmdir()


def _sha256(path: Path) -> str | None:
    try:
        return sha256_once(path)
    except OSError:
        return None
