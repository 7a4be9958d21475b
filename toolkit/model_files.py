"""A look at a model folder before it is loaded. In: a folder. Out: its first damaged file. No torch is imported."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.file_errors import patiently


def first_damaged(folder: Path) -> tuple[Path, Exception] | None:
    """The first JSON or safetensors file that is cut off or is none, and what its reader raised; None if all are whole.

    Of safetensors only the header is read, which is compared with the size.

    Raises:
        EnvironmentFault: a file cannot be read.
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
