"""Rows while operators run. In: rows of a table. Out: the same rows in Data-Juicer's format, and a table again."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bettersynth_assets.operators.sample import EMBEDDING, META, SIMILARITY, STATS
from bettersynth_assets.records.seed_rows import OUR_NAMES
from toolkit.tokens import kit_text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Row:
    """One row while operators are applied to it."""

    sample: dict[str, Any]
    """The row in Data-Juicer's format."""
    values: dict[str, Any]
    """The row as in the table."""
    edits: list[dict[str, str]] = field(default_factory=list)
    """Captions changed by mappers: the operator and the previous caption."""
    measured: set[str] = field(default_factory=set)
    """Fields of the sample that the current whole-dataset operator has added."""
    pixels: dict[object, Tensor] = field(default_factory=dict)
    """The image preprocessed for operators that run later, by operator."""


def make_row(values: dict[str, Any], image_root: Path, *, with_score: bool, extra: Collection[str] = ()) -> Row:
    """Build a ``Row`` from a row of schema ``SCORED``, with the known values in its stats.

    Args:
        values: the row.
        image_root: folder that its image path is relative to.
        with_score: whether its similarity comes from the model that the operators use.
        extra: names that every sample has, null if the row has no such field.

    Returns:
        The row. Its sample also holds the extra fields of the seed file, which never replace fields of ours.
    """
    stats: dict[str, Any] = {"image_width": [values["width"]], "image_height": [values["height"]]}
    if with_score:
        stats[SIMILARITY] = [values["clip_score"]]
    extra_fields = dict.fromkeys(extra) | json.loads(values.get("extra") or "{}")
    extra_fields = {name: value for name, value in extra_fields.items() if not OUR_NAMES.match(name)}
    sample = {
        **extra_fields,
        "id": values["id"],
        "text": kit_text(values["caption"]),
        "images": [f"{image_root}/{values['image']}"],
        STATS: stats,
        META: {},
    }
    return Row(sample=sample, values=values)


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Copy rows to Data-Juicer's batch, a dict of lists, so that a failing operator cannot change the rows."""
    names = dict.fromkeys(name for row in rows for name in row.sample)  # rows may have different extra fields
    batch: dict[str, list[Any]] = {name: [row.sample.get(name) for row in rows] for name in names}
    return batch | {name: [dict(value) for value in batch[name]] for name in (STATS, META)}


def kept_table(table: pa.Table, rows: list[Row]) -> pa.Table:
    """Return the rows that are left, with the columns of their table and ``stats``."""
    for row in rows:
        stats = {name: scalar(value) for name, value in row.sample[STATS].items()}
        if row.edits:
            stats["edits"] = row.edits
            row.values["flags"] = sorted({*(row.values["flags"] or []), "caption_edited"})
        earlier = json.loads(row.values.get("stats") or "{}")
        row.values["stats"] = json.dumps({**earlier, **stats}, sort_keys=True, ensure_ascii=False, default=str)
    schema = table.schema if "stats" in table.schema.names else table.schema.append(pa.field("stats", pa.string()))
    return pa.Table.from_pylist([row.values for row in rows], schema=schema)


def scalar(value: Any) -> Any:
    """Unwrap Data-Juicer's lists with one number per image; a row has one image."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def known_fields(rows: list[Row]) -> str:
    """Describe the fields and stats of a row, for errors of operators that look for another one."""
    if not rows:
        return "no row"
    fields = sorted(rows[0].sample.keys() - {STATS, META, EMBEDDING} - rows[0].measured)
    return f"the fields {', '.join(fields)} and the stats {', '.join(sorted(rows[0].sample[STATS])) or 'none'}"
