"""Hashes of stored files, and whether the files still have them. In: a path, and what was recorded. Out: a fault or "".

A file's size is compared at every look, its sha256 once per process for each state of the file
(``toolkit.files.sha256_once``).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from bettersynth_assets.errors import UserError
from toolkit.file_errors import patiently
from toolkit.files import flush, sha256_once


class DamagedFileError(UserError):
    """A stored file that is missing or is not what was written."""


def seal(path: Path) -> dict[str, Any]:
    """Flush a finished file to disk and give its entry for the manifest: ``{"bytes": …, "sha256": …}``."""
    flush(path)
    found = path.stat()
    return {"bytes": found.st_size, "sha256": _sha256(path, found)}


def fault_of(path: Path, entry: dict[str, Any], *, sizes_only: bool = False) -> str:
    """What is wrong with a file, as a sentence that names it; empty where it is what ``entry`` says.

    Raises:
        EnvironmentFault: the file cannot be read, which says nothing about its content.
    """
    try:
        state = patiently(path.stat, path, seen=False)
    except OSError:
        return f"{path} is missing"
    if not stat.S_ISREG(state.st_mode):
        return f"{path} is not a file"
    if state.st_size != entry["bytes"]:
        return f"{path} has {state.st_size} bytes, {entry['bytes']} were written"
    found = entry["sha256"] if sizes_only else _sha256(path, state)
    if found != entry["sha256"]:
        return f"{path} has changed since it was written (sha256 {found[:12]}, was {entry['sha256'][:12]})"
    return ""


def _sha256(path: Path, state: os.stat_result) -> str:
    return patiently(lambda: sha256_once(path, state), path)
