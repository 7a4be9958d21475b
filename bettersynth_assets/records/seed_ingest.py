"""Checks seed rows. In: lines of one shard. Out: rows of schema ``SEED`` and rows of schema ``QUARANTINE``.

Each line becomes a row of exactly one of the two, in the order of the lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.images.headers import read_header
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.paths import FolderGoneError, Roots, image_path
from bettersynth_assets.records.schema import QUARANTINE, SEED, rows_table
from bettersynth_assets.records.seed_file import SeedLine
from bettersynth_assets.records.seed_rows import parse_row
from toolkit.preprocess.row_lines import RowError, read_line
from toolkit.tokens import kit_text


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """Result of ingesting lines."""

    kept: pa.Table
    quarantine: pa.Table
    existing: int = 0
    """Number of rows whose image file exists, valid or not."""
    missing: int = 0
    """Number of rows whose image file does not exist."""
    missing_folders: Counter[str] = field(default_factory=Counter)
    """Number of rows with a missing or empty folder, by folder; included in ``missing``."""


def ingest(lines: Sequence[SeedLine], root: Path, limits: Limits, roots: Roots = (), *, stage: str) -> Ingested:
    """Check lines one by one: text first, then the path, then the image's header.

    Args:
        lines: unparsed rows of the file.
        root: the image root.
        limits: limits from the profile.
        roots: further folders that links may point into.
        stage: name for the table of the quarantine.

    Raises:
        EnvironmentFault: a file cannot be accessed or read.
    """
    existing, missing, missing_folders = 0, 0, Counter[str]()
    kept: list[dict[str, Any]] = []
    quarantine: list[dict[str, Any]] = []
    for line in lines:
        row_id: str | None = None
        try:
            values = read_line(line.raw)
            row_id = values["id"]
            if line.first:
                raise RowError("duplicate_id", f"row {line.first} has the same id and is kept")
            kept.append(_row(values, line.number, root, limits, roots))
        except (RowError, ImageError) as error:
            if isinstance(error, ImageError):
                missing += error.reason == "missing_image"
                existing += error.reason not in ("missing_image", "path_escape", "url_refused")
            if isinstance(error, FolderGoneError):
                missing_folders[error.folder] += 1
            quarantine.append(
                {"id": row_id, "line": line.number, "stage": stage, "reason": error.reason, "detail": error.detail}
            )
    return Ingested(
        kept=rows_table(kept, SEED),
        quarantine=rows_table(quarantine, QUARANTINE),
        existing=existing + len(kept),
        missing=missing,
        missing_folders=missing_folders,
    )


def _row(values: dict[str, Any], number: int, root: Path, limits: Limits, roots: Roots) -> dict[str, Any]:
    row = parse_row(values)
    header = read_header(image_path(root, row.image, roots), limits)
    return {
        "id": row.id,
        "line": number,
        "image": row.image,
        "caption": row.caption,
        "width": header.width,
        "height": header.height,
        "words": len(kit_text(row.caption).split()),
        "mode": header.mode,
        "format": header.format,
        "bytes": header.bytes,
        "image_hash": header.image_hash,
        "flags": list(header.flags),
        "extra": row.extra,
    }
