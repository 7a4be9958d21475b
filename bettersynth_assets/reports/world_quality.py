"""Detection quality of the miniature's known faults. In: manifests and the world's ground truth. Out: JSON figures.

Only for the generated world, where the scene and the faults of every row are known. Filters are measured on the
captions of the seed file; a filter that judged a new caption cannot be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.operators.thresholds import NAME as CLIP_SCORE_FILTER

ManifestsBySet = dict[str, list[Manifest]]


def world_quality(truth_file: Path, manifests: ManifestsBySet) -> dict[str, Any]:
    """Measure the stages on disk; parts whose stage has not run are omitted.

    Returns:
        ``similarity``: AUC of clean captions against each kind of bad caption. ``filters``: precision and recall of
        filtered_set's operators, and of a threshold at the seed file's mean (seed_profile). ``captions, seed`` and
        ``captions, chosen``: how much of the images they name, and how much of it is true.
    """
    from bettersynth_assets.miniature.quality import caption_quality, filter_quality, score_quality, truth_by_id

    truth = truth_by_id(pq.read_table(truth_file))
    quality: dict[str, Any] = {}
    if scores := manifests.get("clip_scores"):
        table = _rows(scores)
        entered = table["id"].to_pylist()
        rejects = {"seed_profile": _below_mean(table, manifests), "filtered_set": _rejects(manifests)}
        measured = {name: filter_quality(rows, entered, truth) for name, rows in rejects.items() if name in manifests}
        quality["similarity"] = score_quality(table, truth)
        quality["filters"] = {
            f"{name}: {item.operator}": {
                part: getattr(item, part) for part in ("precision", "recall", "rejected", "faulty")
            }
            for name, items in measured.items()
            for item in items
        }
    for name, stage in (("seed", "seed_dataset"), ("chosen", "recaptioned_set")):
        if stage in manifests:
            quality[f"captions, {name}"] = caption_quality(_rows(manifests[stage]), truth)
    return quality


def _rows(manifests: list[Manifest], name: str = "kept") -> pa.Table:
    return pa.concat_tables([item.table(name) for item in manifests])


def _rejects(manifests: ManifestsBySet) -> pa.Table | None:
    return _rows(manifests["filtered_set"], "rejects") if "filtered_set" in manifests else None


def _below_mean(scored: pa.Table, manifests: ManifestsBySet) -> pa.Table | None:
    """Return the rows that a similarity filter at the seed file's mean would reject, as a rejects table."""
    if "seed_profile" not in manifests:
        return None
    mean = manifests["seed_profile"][0].stats["clip_score"]["mean"]
    ids = scored.filter(pc.less(scored["clip_score"], mean))["id"]
    return pa.table({"id": ids, "operator": pa.array([CLIP_SCORE_FILTER] * len(ids))})
