"""Integrity check of a model folder. In: a folder. Out: its first damaged file. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.file_errors import patiently


def first_damaged(folder: Path) -> tuple[Path, Exception] | None:
    """Return the first truncated or invalid JSON or safetensors file with its reader's error, or None.

    Of a safetensors file, only the header is read and compared with the file's size.

    Raises:
        EnvironmentFault: the environment prevents a file from being read.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(patiently(path.read_bytes, path))
        except ValueError as error:
            return path, error
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            return path, error
    return None
