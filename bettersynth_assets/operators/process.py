"""Runs a recipe's operators over a shard. In: rows and built operators. Out: kept rows + stats, rejects, quarantine.

Operators see a row as Data-Juicer expects it: ``text`` in the kit's format, ``images`` with one absolute path, and
known values in its stats (width, height, similarity), so that nothing is scored twice. Rows pass the operators in the
recipe's order; the first operator that refuses a row rejects it, and later ones do not see it. An operator that fails
on one row quarantines that row only; one that fails on every row is an error of the recipe. Deduplicators and Selectors
are in the same list and judge all rows that reach them at once (``dataset_operators``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bettersynth_assets.images.opening import ImageError, check_unchanged, open_rgb
from bettersynth_assets.models.batching import ProgressCallback
from bettersynth_assets.operators.built import BuiltOperator, Errors
from bettersynth_assets.operators.operator_calls import FIX, OperatorError, one_line, operator_context
from bettersynth_assets.operators.rows import Row, kept_table, known_fields, make_row
from bettersynth_assets.operators.sample import EMBEDDING, SIMILARITY, STATS
from bettersynth_assets.operators.sandbox import operator_environment
from bettersynth_assets.records.reserved import CaptionError
from bettersynth_assets.records.schema import QUARANTINE, REJECTS, rows_table
from toolkit.progress import Progress

Rescore = Callable[[Sequence[Path], Sequence[str]], Sequence[float | ImageError]]


@dataclass(frozen=True, kw_only=True)
class Processed:
    """Rows of one shard after a recipe's operators; kept + rejects + quarantine = rows in."""

    kept: pa.Table
    """The input's columns, and ``stats``."""
    rejects: pa.Table
    quarantine: pa.Table
    operators: list[dict[str, Any]]
    """Per operator, in order: name, rows_in, rows_out, seconds (including model loading for the first shard)."""


def run_process(
    table: pa.Table,
    operators: Sequence[BuiltOperator],
    *,
    stage: str,
    image_root: Path,
    rescore: Rescore | None,
    embeddings: Sequence[NDArray[np.float32] | None] | NDArray[np.float32] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Processed:
    """Run operators over rows.

    Args:
        table: rows of schema ``SCORED``, possibly with more columns.
        operators: operators in the recipe's order.
        stage: name for the tables of rejects and quarantine.
        image_root: folder that the rows' image paths are relative to.
        rescore: computes the similarity of a caption that a mapper changed; None if the operators score with another
            model than clip_scores.
        embeddings: (D,) of each row's image by the model of clip_scores, for operators that would compute them again;
            None for a row that has none.
        log: receives a line per finished operator, and progress every few seconds.

    Raises:
        ConfigError: a mapper does not return one row with a text for each row.
        OperatorError: an operator fails on every row, or on the whole dataset.
        EnvironmentFault: an operator cannot read a file for a reason outside of the file.
    """
    records = table.to_pylist()
    # A field that only rows of other shards have is null in all rows of this shard.
    extra = {name for values in records for name in json.loads(values.get("extra") or "{}")}
    extra |= {name for built in operators for name in built.reads}
    rows = [make_row(values, image_root, with_score=rescore is not None, extra=extra) for values in records]
    if embeddings is not None:
        for row, embedding in zip(rows, embeddings, strict=True):
            if embedding is not None:
                row.sample[EMBEDDING] = embedding
    rejects: list[dict[str, object]] = []
    quarantine: list[dict[str, object]] = []
    speeds: list[dict[str, Any]] = []
    for number, built in enumerate(operators, start=1):
        start, rows_in = time.monotonic(), len(rows)
        progress = Progress(log, f"{stage}: {built.name}", rows_in, logs_end=False)
        failed = _measure(built, rows, rescore, operators[number:], progress.add)
        quarantine.extend(_quarantined(rows[index], stage, built, error) for index, error in failed.items())
        rows = [row for index, row in enumerate(rows) if index not in failed]
        with operator_environment():
            refused, failed = built.refused(rows)
        _raise_if_all(built, rows, failed)
        quarantine.extend(_quarantined(rows[index], stage, built, error) for index, error in failed.items())
        rejects.extend(_rejected(rows[index], stage, built, *reason) for index, reason in refused.items())
        rows = [row for index, row in enumerate(rows) if index not in refused and index not in failed]
        seconds = round(time.monotonic() - start, 6)
        speeds.append({"name": built.name, "rows_in": rows_in, "rows_out": len(rows), "seconds": seconds})
        log(f"{stage}: {built.name} passed {len(rows)} of {rows_in} rows in {seconds:.3f} s")
    return Processed(
        kept=kept_table(table, rows),
        rejects=rows_table(rejects, REJECTS),
        quarantine=rows_table(quarantine, QUARANTINE),
        operators=speeds,
    )


def _measure(
    built: BuiltOperator,
    rows: list[Row],
    rescore: Rescore | None,
    later: Sequence[BuiltOperator],
    on_batch: ProgressCallback,
) -> Errors:
    """Run an operator on all rows, and score the captions that it changed; return the errors."""
    with (
        operator_environment(),
        operator_context(built.name, built.limits, f"on {len(rows)} rows", built.fix),
    ):
        failed = built.measure(rows, later, on_batch)
    _raise_if_all(built, rows, failed)
    if built.is_filter or built.needs_set or rescore is None:
        return failed
    edited = [index for index, row in enumerate(rows) if SIMILARITY not in row.sample[STATS] and row.values["caption"]]
    paths = [Path(rows[index].sample["images"][0]) for index in edited]
    for index, score in zip(edited, rescore(paths, [rows[at].values["caption"] for at in edited]), strict=True):
        if isinstance(score, ImageError):
            failed[index] = score
        else:
            rows[index].values["clip_score"] = score
            rows[index].sample[STATS][SIMILARITY] = [score]
    return dict(sorted(failed.items()))


def _raise_if_all(built: BuiltOperator, rows: list[Row], failed: Errors) -> None:
    """Raise if an operator fails on every row, unless every image is broken or every new caption is refused."""
    if not rows or len(failed) < len(rows):
        return
    if all(isinstance(error, CaptionError) for error in failed.values()):
        return
    if all(_image_error(row) is not None for row in rows):
        return
    first = failed[min(failed)]
    looks_for_field = isinstance(first, AssertionError | LookupError | AttributeError)
    fields = f" (a row has {known_fields(rows)})" if looks_for_field else ""
    raise OperatorError(
        f"operator {built.name!r} with {built.limits} failed on all {len(rows)} rows: {one_line(first)}: {FIX}{fields}"
    ) from first


def _image_error(row: Row) -> ImageError | None:
    try:
        open_rgb(Path(row.sample["images"][0]))
    except ImageError as error:
        return error
    return None


def _quarantined(row: Row, stage: str, built: BuiltOperator, error: BaseException) -> dict[str, object]:
    if isinstance(error, CaptionError):
        detail, reason = f"{built.name}: {error.detail}", error.reason
        return {"id": row.values["id"], "line": row.values["line"], "stage": stage, "reason": reason, "detail": detail}
    broken = error if isinstance(error, ImageError) else _image_error(row)
    if broken:
        check_unchanged(Path(row.sample["images"][0]), row.values["image_hash"])
    detail = broken.detail if broken else f"{built.name}: {one_line(error)}"
    reason = broken.reason if broken else "operator_error"
    return {"id": row.values["id"], "line": row.values["line"], "stage": stage, "reason": reason, "detail": detail}


def _rejected(row: Row, stage: str, built: BuiltOperator, value: float | None, reason: str) -> dict[str, object]:
    return {
        "id": row.values["id"], "line": row.values["line"], "stage": stage, "operator": built.name, "reason": reason,
        "value": value, "limit": built.limits,
    }  # fmt: skip
