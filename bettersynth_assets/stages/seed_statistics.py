"""seed_profile: statistics of the seed file. In: all shards of clip_scores. Out: one row per measure, all scores.

Filtering is per shard, but limits such as "the mean of all scores" are global: this stage combines all rows. Similarity
is a cosine, words are those of the kit's text, width and height are in pixels.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.operators.limits import SCORES_FILE
from bettersynth_assets.records.distribution import PERCENTILES, describe
from bettersynth_assets.stages.accounting import empty_set_error
from bettersynth_assets.stages.rules import THRESHOLDS

NAME = "seed_profile"
MEASURES = ("clip_score", "words", "width", "height")
FIGURES = pa.schema(
    [
        ("measure", pa.string()),
        ("rows", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "sd", "min", "max", "k_sigma_low", "k_sigma_high")),
        *((f"p{point}", pa.float64()) for point in PERCENTILES),
    ]
)


def run(work: Work) -> Result:
    """Compute the statistics of all shards together."""
    rows = work.rows("clip_scores")
    if not rows.num_rows:
        raise empty_set_error(NAME, work.settings)
    statistics = {name: describe(rows.column(name)) for name in MEASURES}
    figures = pa.Table.from_pylist([_figures(name, values) for name, values in statistics.items()], schema=FIGURES)
    # Its rows are measures, not pairs; the stats hold the number of pairs.
    return Result(
        rows_in=figures.num_rows,
        kept=figures,
        tables={SCORES_FILE: rows.select(["id", "clip_score"])},
        stats={"rows": rows.num_rows, **statistics},
    )


def _figures(name: str, values: dict[str, Any]) -> dict[str, Any]:
    low, high = values["k_sigma"]
    percentiles = {f"p{point}": value for point, value in values["percentiles"].items()}
    plain = {key: values[key] for key in ("rows", "mean", "sd", "min", "max")}
    return {"measure": name, **plain, "k_sigma_low": low, "k_sigma_high": high, **percentiles}


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    return None


SEED_PROFILE = Stage(
    name=NAME,
    version=1,
    rules=(THRESHOLDS,),
    run=run,
    depends=depends,
    sharded=False,
    inputs=("clip_scores",),
    scope="seed",
)
