"""A training file and its images, as the training stage receives them from the set before it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa


def budgeted(file: Path, images: Path) -> Any:
    """Return what stands for the manifest of a budgeted set.

    Args:
        file: LLaVA JSON.
        images: folder that its image paths are relative to.
    """
    names = sorted({row["image"] for row in json.loads(file.read_text()) if "image" in row})
    hashes = [hashlib.sha256((images / name).read_bytes()).hexdigest() for name in names]
    table = pa.table({"image": names, "image_hash": hashes})
    return cast(Any, SimpleNamespace(file=lambda name: file, table=lambda: table))
