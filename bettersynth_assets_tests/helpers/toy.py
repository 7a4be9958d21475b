"""Stages that replace those with models, so that data stages can be tested alone and quickly."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.records.schema import RECAPTIONED, REJECTS, SCORED, rows_table
from bettersynth_assets.stages.budget import BASELINE_SET, BUDGETED_SET
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets.stages.seed_statistics import SEED_PROFILE


def score_of(row_id: str) -> float:
    """Return an artificial cosine that depends only on the id."""
    return int(hashlib.sha256(row_id.encode()).hexdigest()[:4], 16) / 65536


def _score(work: Work) -> Result:
    rows = [
        {**row, "clip_score": np.float32(score_of(row["id"])), "text_truncated": False}
        for row in work.rows("seed_dataset").to_pylist()
    ]
    return Result(rows_in=len(rows), kept=rows_table(rows, SCORED))


def _filter(work: Work, least: float) -> Result:
    kept, rejects = [], []
    for row in work.rows("clip_scores").to_pylist():
        if row["clip_score"] >= least:
            kept.append({**row, "original_caption": row["caption"], "choice": "original", "caption_flags": []})
        else:
            rejects.append({"id": row["id"], "line": row["line"], "stage": "filtered_set", "operator": "toy_filter"})
    table = rows_table(kept, RECAPTIONED)
    return Result(rows_in=len(kept) + len(rejects), kept=table, rejects=rows_table(rejects, REJECTS))


def _pass_on(work: Work) -> Result:
    rows = work.rows("filtered_set")
    return Result(rows_in=rows.num_rows, kept=rows)


def toy_pipeline(settings: Settings, *, least: float = -1.0) -> Pipeline:
    """Return a pipeline of ``toy_stages``."""
    return Pipeline(toy_stages(least=least), ResolvedRun(settings))


def toy_stages(*, least: float = -1.0, of_baseline: float | None = None) -> tuple[Stage, ...]:
    """Return all data stages with artificial scores; rows below ``least`` are rejected, captions kept.

    Args:
        least: for all recipes.
        of_baseline: for recipes that are a baseline; None uses ``least``.
    """

    def least_of(run: ResolvedRun) -> float:
        return of_baseline if run.recipe.baseline and of_baseline is not None else least

    def same(run: ResolvedRun, shard: str, inputs: object) -> object:
        return least

    return (
        SEED_DATASET,
        Stage(
            name="clip_scores",
            version=1,
            run=_score,
            depends=same,
            sharded=True,
            inputs=("seed_dataset",),
            scope="seed",
            columns=SCORED,
        ),
        SEED_PROFILE,
        Stage(
            name="filtered_set", version=1, run=lambda work: _filter(work, least_of(work.run)), sharded=True,
            depends=lambda run, shard, inputs: least_of(run), inputs=("clip_scores",),
            columns=RECAPTIONED,
        ),
        Stage(
            name="recaptioned_set", version=1, run=_pass_on, depends=same, sharded=True, inputs=("filtered_set",),
            columns=RECAPTIONED,
        ),
        BUDGETED_SET,
        BASELINE_SET,
    )  # fmt: skip


def all_rows(pipeline: Pipeline, stage: str, table: str = "kept") -> pa.Table:
    return pa.concat_tables([manifest.table(table) for manifest in pipeline.ensure_all(stage)])
