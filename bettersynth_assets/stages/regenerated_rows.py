"""Rows after regeneration. In: rows, their new image files, scores. Out: changed rows, and a ledger of all attempts.

The ledger holds one entry per badly matched row: the parent image, the new one, both scores and the outcome.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.images.opening import content_hash
from bettersynth_assets.records.image_root import REGENERATED
from toolkit.file_errors import patiently

FOLDER = "images"
"""Folder of a shard's new images."""
LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the row, unchanged
        ("parent_image", pa.string()),  # image of the seed file
        ("image", pa.string()),  # new image; null if every try was refused
        ("caption", pa.string()),  # caption that it was generated from
        ("score_before", pa.float32()),  # cosine with the parent image
        ("score_after", pa.float32()),  # cosine with the new image
        ("outcome", pa.string()),  # replaced, parent_better (or equal; under best_of), refused
    ]
)


def ledger_entry(
    row: dict[str, Any], path: Path | None, score: float | None, *, policy: str, shard: str
) -> dict[str, Any]:
    """Return the ledger's entry of one row."""
    if path is None or score is None:
        outcome, image = "refused", None
    else:
        outcome = "replaced" if policy == "replace" or score > row["clip_score"] else "parent_better"
        image = f"{REGENERATED}/{shard}/{FOLDER}/{path.name}"
    common = {name: row[name] for name in ("id", "caption")}
    common |= {"parent_image": row["image"], "score_before": row["clip_score"]}
    return {**common, "image": image, "score_after": score, "outcome": outcome}


def regenerated_row(row: dict[str, Any], path: Path | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the row for the output table."""
    if entry["outcome"] == "replaced" and path is not None:
        return {**row, **_image_fields(path), "image": entry["image"], "clip_score": entry["score_after"]}
    return row if path is not None else {**row, "flags": [*row["flags"], "regeneration_refused"]}


def _image_fields(path: Path) -> dict[str, Any]:
    """Return the fields of a row that describe its image file."""
    from PIL import Image

    data = patiently(path.read_bytes, path)
    with Image.open(io.BytesIO(data)) as image:
        size = {"width": image.width, "height": image.height}
    of_bytes = {"bytes": len(data), "image_hash": content_hash(data)}
    return {**size, **of_bytes, "mode": "RGB", "format": "JPEG", "flags": ["regenerated"]}


def ledger_stats(ledger: Sequence[dict[str, Any]], below: float) -> dict[str, Any]:
    """Return counts of the outcomes, and the mean scores before and after of the rows with a new image."""
    scored = [entry for entry in ledger if entry["score_after"] is not None]
    mean = lambda name: sum(entry[name] for entry in scored) / len(scored) if scored else None  # noqa: E731
    return {
        "regenerate_below": below,
        "regenerated": dict(sorted(Counter(entry["outcome"] for entry in ledger).items())),
        "score_mean_parent_image": mean("score_before"),
        "score_mean_new_image": mean("score_after"),
    }
