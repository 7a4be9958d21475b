"""Sizes and hashes of finished files, to detect damaged files before they are used.

In: a folder. Out: ``{"name": {"bytes": 12, "sha256": "…"}}`` for its marker, and later the first file that differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolkit.file_errors import patiently
from toolkit.files import file_sha256, sha256_once

Record = dict[str, dict[str, Any]]


class MarkerError(ValueError):
    """A marker file that is missing or invalid; the message names it."""


def record_files(folder: Path, files: Iterable[Path]) -> Record:
    """Return size and SHA-256 of files by their path relative to ``folder``; hashes them in parallel."""
    listed = sorted(files)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(file_sha256, listed))
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in zip(listed, hashes, strict=True)
    }


def find_damage(folder: Path, record: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Describe the first file that differs from its record; return None if all files match.

    Raises:
        EnvironmentFault: the file system does not let this user read a file.
    """
    if not isinstance(record, Mapping) or not all(isinstance(values, Mapping) for values in record.values()):
        return f"the list of files of {folder} is malformed"
    for name, expected in record.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != expected.get("bytes"):
            return f"{path} has {size} bytes instead of {expected.get('bytes')}"
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda name: _sha256_of(folder / name), record))
    for name, digest in zip(record, hashes, strict=True):
        if digest != record[name].get("sha256"):
            return f"{folder / name} has changed since it was written (sha256 {digest[:12]})"
    return None


def read_marker(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read the JSON object of a marker file.

    Raises:
        MarkerError: the file is missing, empty, not a JSON object, or lacks one of the keys.
        EnvironmentFault: the file system does not let this user read it.
    """
    try:
        values = json.loads(patiently(path.read_bytes, path, seen=False))
    except OSError as error:
        raise MarkerError(f"{path} is missing ({error.strerror})") from error
    except ValueError as error:
        raise MarkerError(f"{path} is {'not valid JSON' if path.stat().st_size else 'empty'} ({error})") from error
    missing = [key for key in keys if not isinstance(values, dict) or values.get(key) is None]
    if missing:
        raise MarkerError(f"{path} is not a JSON object with {', '.join(missing)}")
    return dict(values)


def _sha256_of(path: Path) -> str:
    return patiently(lambda: sha256_once(path), path)
