"""Verifies stored files. In: a path, and the recorded size and hash. Out: a description of the fault, or "".

Each call compares the file's size; its sha256 is computed once per process and state of the file
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
    """A stored file that is missing or has changed since it was written."""


def seal(path: Path) -> dict[str, Any]:
    """Flush a finished file to disk; return its entry for the manifest: ``{"bytes": …, "sha256": …}``."""
    flush(path)
    status = path.stat()
    return {"bytes": status.st_size, "sha256": _sha256(path, status)}


def fault_of(path: Path, entry: dict[str, Any], *, sizes_only: bool = False) -> str:
    """Compare a file with its manifest entry; return a sentence about the difference, or "".

    Raises:
        EnvironmentFault: the file cannot be read, so its content is unknown.
    """
    try:
        state = patiently(path.stat, path, seen=False)
    except OSError:
        return f"{path} is missing"
    if not stat.S_ISREG(state.st_mode):
        return f"{path} is not a file"
    if state.st_size != entry["bytes"]:
        return f"{path} has {state.st_size} bytes, but {entry['bytes']} were written"
    digest = entry["sha256"] if sizes_only else _sha256(path, state)
    if digest != entry["sha256"]:
        return f"{path} has changed since it was written (sha256 {digest[:12]}, was {entry['sha256'][:12]})"
    return ""


def _sha256(path: Path, state: os.stat_result) -> str:
    return patiently(lambda: sha256_once(path, state), path)
