"""Metadata of operator_plan for the UI. In: its manifest, and filtered_set's on disk. Out: Dagster metadata."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.store import Manifest, Slot


def operator_order_metadata(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """Return the operator order as Markdown, with predicted seconds and measured seconds of filtered_set's shards.

    The measured seconds are those on disk now: materialize operator_plan again after filtered_set to compare both.
    """
    shown: dict[str, Any] = {"operator order": dg.MetadataValue.md(markdown(manifest.table()))}
    slots = [
        Slot(root=settings.recipe_root, stage="filtered_set", shard=name) for name in settings.profile.shard_names()
    ]
    shards = [shard for slot in slots if (shard := slot.read()) is not None]
    if shards:
        shown |= {
            "actual_seconds": round(sum(shard.seconds for shard in shards), 3),
            "actual_rows": sum(shard.rows_in for shard in shards),
            "actual_shards": len(shards),
            "actual_order": ", ".join(sorted({str(shard.stats.get("order", "written")) for shard in shards})),
        }
    return shown


def markdown(table: pa.Table) -> str:
    """Format the rows of operator_plan, each list in its planned order, as a Markdown table; four digits or more."""
    reasons: dict[str, None] = {}  # listed below the table; in cells they would make tall rows
    lines = ["| " + " | ".join(table.column_names) + " |", "|" + "---|" * table.num_columns]
    for row in sorted(table.to_pylist(), key=lambda row: (row["list"] != "process", row["planned"])):
        if ":" in row["moves"]:
            reasons[row["moves"]], row["moves"] = None, row["moves"].partition(":")[0]
        cells = [_number(value) if isinstance(value, float) else str(value or "none") for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{reason}" for reason in reasons)])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
