"""Metadata of a materialization for the UI. In: a manifest and its kept rows. Out: Dagster metadata, a few kB.

Counts of input, kept, rejected and quarantined rows, scores, plots, a gallery, time, memory and file locations. All of
it comes from the manifest and the kept table, so a shard that is up to date shows the same as the run that produced it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa

from bettersynth_assets.engine.store import WHOLE, Manifest
from bettersynth_assets.operators.thresholds import NAME as CLIP_SCORE_FILTER
from bettersynth_assets.reports.gallery import gallery
from bettersynth_assets.reports.operator_order import operator_order_metadata
from bettersynth_assets.reports.plots import INLINE_LIMIT, curve, histogram, sparkline

if TYPE_CHECKING:
    from bettersynth_assets.engine.resolved_run import ResolvedRun

TABLE_ROWS = 20
METRIC_ROWS = 100
METRICS = pa.schema(
    [("benchmark", pa.string()), ("metric", pa.string()), ("n", pa.int64()),
     ("mean", pa.float64()), ("sd", pa.float64()), ("baseline", pa.float64()), ("chance", pa.float64())]
)  # fmt: skip
Metadata = dict[str, Any]
"""Values that Dagster accepts as metadata: numbers, text and ``MetadataValue``."""


def describe(manifest: Manifest, run: ResolvedRun, *, rows: bool) -> Metadata:
    """Return the metadata of one shard, or of a whole set.

    Args:
        manifest: the manifest of the shard or set.
        run: the resolved run, to locate the images.
        rows: True for a set of image-text rows, which gets scores and images; other sets are shown as a table.
    """
    table = manifest.table()
    count_key = "dagster/row_count" if manifest.shard == WHOLE else "dagster/partition_row_count"
    metadata: Metadata = {
        count_key: manifest.kept,
        "dagster/uri": str(manifest.path),
        "rows_in": manifest.rows_in,
        "kept": manifest.kept,
        "rejected": sum(manifest.rejected.values()),
        "quarantined": sum(manifest.quarantined.values()),
    }
    for name, counts in (("rejected_by_operator", manifest.rejected), ("quarantined_by_reason", manifest.quarantined)):
        if counts:
            metadata[name] = dg.MetadataValue.json(counts)
    metadata |= figures(
        {name: value for name, value in manifest.stats.items() if not name.endswith(("metrics", "_values", "chance"))}
    )
    if rows and table.num_rows:
        metadata |= distributions(table)
        metadata["gallery"] = dg.MetadataValue.md(_gallery(table, run, lowest_score(manifest.stats)))
    elif manifest.stage == "operator_plan":
        metadata.pop("order", None)  # operator_plan shows it with names
        metadata |= operator_order_metadata(manifest, run.settings)
    elif "metrics" in manifest.stats:
        metadata["table"] = small_table(metric_table(table, manifest.stats), rows=METRIC_ROWS)
    elif not rows:
        metadata["table"] = small_table(table)
    return metadata | {
        "seconds": manifest.seconds,
        "rows_per_second": round(manifest.rows_per_second, 2),
        **figures(manifest.usage),
        "path": dg.MetadataValue.path(str(manifest.path)),
        "made": manifest.created,
        "key": manifest.key[:12],
    }


def metric_table(results: pa.Table, stats: Mapping[str, Any]) -> pa.Table:
    """One row per benchmark and metric: n, mean and sd over the training seeds, the baseline's mean, chance level."""
    base, chance = stats.get("baseline_metrics", {}), stats.get("chance", {})
    names = dict.fromkeys(zip(*(results[name].to_pylist() for name in ("benchmark", "metric")), strict=True))
    return pa.Table.from_pylist(
        [
            {"benchmark": benchmark, "metric": metric, **stats["metrics"][benchmark][metric],
             "baseline": base.get(benchmark, {}).get(metric, {}).get("mean"),
             "chance": chance.get(benchmark, {}).get(metric)}
            for benchmark, metric in names
        ],
        schema=METRICS,
    )  # fmt: skip


def small_table(table: pa.Table, rows: int = TABLE_ROWS) -> dg.TableMetadataValue:
    """Return the first rows as Dagster table metadata with rounded numbers."""
    records = [
        dg.TableRecord({name: _rounded(value) if isinstance(value, float) else value for name, value in row.items()})
        for row in table.slice(0, rows).to_pylist()
    ]
    columns = [dg.TableColumn(name=field.name, type=str(field.type)) for field in table.schema]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))


def figures(stats: Mapping[str, Any]) -> Metadata:
    """Convert a stage's stats: numbers and text as they are, distributions as plots, the rest as short JSON."""
    shown: Metadata = {}
    for name, value in stats.items():
        if isinstance(value, Mapping) and {"edges", "counts"} <= value.get("histogram", {}).keys():
            shown |= _distribution(name, value)
        elif value is None:
            shown[name] = "none"
        elif isinstance(value, (bool, str, int)):
            shown[name] = value
        elif isinstance(value, float):
            shown[name] = _rounded(value)
        elif name.startswith("loss") and isinstance(value, list) and value:
            shown[name] = dg.MetadataValue.md(curve(value))
            shown[f"{name}_line"] = sparkline(value)
        elif len(json.dumps(value, default=str)) < INLINE_LIMIT:
            shown[name] = dg.MetadataValue.json(value)
    return shown


def distributions(table: pa.Table) -> Metadata:
    """Mean, sd, percentiles and histogram of the rows' similarity (cosine) and number of words."""
    shown: Metadata = {}
    for name in ("clip_score", "words"):
        if name not in table.column_names:
            continue
        values = table[name].drop_null().to_numpy().astype(np.float64)
        if values.size == 0:
            continue
        counts, edges = np.histogram(values, bins=20)
        stats = {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "percentiles": {str(point): float(np.percentile(values, point)) for point in (5, 25, 50, 75, 95)},
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }
        shown |= _distribution(name, stats)
    return shown


def _distribution(name: str, stats: Mapping[str, Any]) -> Metadata:
    shown: Metadata = {f"{name}_{key}": _rounded(stats[key]) for key in ("mean", "sd") if key in stats}
    for key in ("k_sigma", "percentiles"):
        if key in stats:
            values = stats[key]
            pairs = values.items() if isinstance(values, Mapping) else zip(("low", "high"), values, strict=True)
            # Text, because the UI sorts the keys of JSON.
            shown[f"{name}_{key}"] = ", ".join(f"{label}: {_rounded(value)}" for label, value in pairs)
    bins = stats["histogram"]
    shown[f"{name}_histogram"] = dg.MetadataValue.md(histogram(bins["edges"], bins["counts"]))
    shown[f"{name}_line"] = sparkline(bins["counts"])
    return shown


def lowest_score(stats: Mapping[str, Any]) -> float | None:
    """Return the similarity threshold of a stage's last filter, or None; rows near it are the borderline rows."""
    for operators in (stats.get("refilter"), stats.get("process")):
        for operator in operators or []:
            if limit := (operator.get(CLIP_SCORE_FILTER) or {}).get("min_score"):
                return float(limit)
    return None


def _rounded(value: float) -> float | str:
    # JSON, and therefore the event log, has no NaN.
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)


def _gallery(table: pa.Table, run: ResolvedRun, limit: float | None) -> str:
    from bettersynth_assets.images.opening import open_rgb

    return gallery(table, image_root=run.image_root, opener=open_rgb, limit=limit)
