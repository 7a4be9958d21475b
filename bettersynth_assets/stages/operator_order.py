"""operator_plan: the cheapest order of ``process:``. In: clip_scores, seed_profile. Out: one row per operator.

Each operator runs on the same ``SAMPLE_ROWS`` rows, spread evenly over all shards, through the code of filtered_set, so
its cost includes decoding; captions are those that the preceding mappers produce. Then both orders run on the sample;
if they keep different rows, the recipe's order stays. Timings differ between runs, so filtered_set only reads the
order, and only if the recipe says ``order: planned``. ``operators/order`` documents the algorithm and its assumptions.
Operators of ``caption.refilter`` are measured too, on the captions before recaptioning, and keep their order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.errors import UserError
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.data_juicer import compares_images
from bettersynth_assets.operators.limits import with_limits
from bettersynth_assets.operators.order import Measured, planned_order, predicted_seconds
from bettersynth_assets.operators.process import Processed, run_process
from bettersynth_assets.stages.accounting import empty_set_error
from bettersynth_assets.stages.filter import PLAN
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.recipe_operators import ReadyList, list_key, ready_list, register_operators
from bettersynth_assets.stages.rules import SAME_KEPT
from bettersynth_assets.stages.score import embeddings_of

SAMPLE_ROWS = 256
FIRST_ROWS = 8
"""Rows of an operator's first call, which loads its model."""
PER_ROWS = 100_000
OPERATORS = pa.schema(
    [
        ("list", pa.string()),  # name in the recipe
        ("position", pa.int64()),  # in the recipe's list, from 1
        ("planned", pa.int64()),  # in the planned order, from 1
        ("operator", pa.string()),
        ("rows_per_second", pa.float64()),
        ("load_seconds", pa.float64()),
        ("share_kept", pa.float64()),
        ("seconds_per_reject", pa.float64()),  # null if it rejected no row of the sample
        ("moves", pa.string()),  # "moves", or why it does not
    ]
)
REFILTER_STAYS = "stays: meant for the captions that recaptioned_set makes; measured on those before"
Run = Callable[[pa.Table, Sequence[BuiltOperator]], Processed]


def sample_of(rows: pa.Table, count: int = SAMPLE_ROWS) -> pa.Table:
    """Return ``count`` rows spread evenly over all, or all if there are fewer; deterministic."""
    count = min(count, rows.num_rows)
    return rows.take([index * rows.num_rows // count for index in range(count)])


def run(work: Work) -> Result:
    """Measure each operator, order them, and run both orders on the sample."""
    entries, refilter = work.settings.recipe.process, work.settings.recipe.refilter
    rows = work.rows("clip_scores")
    if not rows.num_rows:
        raise empty_set_error(PLAN, work.settings)
    first, second = (
        ready_list(work.run, with_limits(operator_list, work.inputs["seed_profile"][0]))
        for operator_list in (entries, refilter)
    )

    sample = sample_of(rows)
    embeddings = embeddings_of(work, sample) if compares_images(entries) else []
    by_id = dict(zip(sample["id"].to_pylist(), embeddings, strict=True)) if embeddings else {}

    def runner(ready: ReadyList) -> Run:
        def process(table: pa.Table, operators: Sequence[BuiltOperator]) -> Processed:
            return run_process(
                table,
                operators,
                stage=PLAN,
                image_root=work.run.seed.images,
                rescore=ready.rescore,
                embeddings=[by_id[row_id] for row_id in table["id"].to_pylist()] if by_id else None,
            )

        return process

    process, operators = runner(first), first.operators
    measured = probe(sample, operators, process, work.log)
    recipe_order, planned = list(range(len(operators))), planned_order(measured)
    kept_rows = process(sample, operators).kept
    moved = planned != recipe_order
    differ = differing(kept_rows, process(sample, [operators[position] for position in planned]).kept) if moved else 0
    shown = operator_rows(measured, planned) + refilter_rows(probe(sample, second.operators, runner(second), work.log))
    table = pa.Table.from_pylist(shown, schema=OPERATORS)
    order = recipe_order if differ else planned
    seconds = {
        f"predicted_seconds_{name}_{unit}": predicted_seconds(measured, positions, count)
        for unit, count in (("100k", PER_ROWS), ("seed", rows.num_rows))
        for name, positions in (("written", recipe_order), ("planned", planned))
    }
    return Result(
        rows_in=table.num_rows,
        kept=table,
        stats={
            "order": order,
            "seed_rows": rows.num_rows,
            "sample_rows": sample.num_rows,
            "sample_rows_kept": kept_rows.num_rows,
            "kept_rows_that_differ": differ,
            **seconds,
        },
    )


def probe(
    sample: pa.Table, operators: Sequence[BuiltOperator], process: Run, log: Callable[[str], None]
) -> list[Measured]:
    """Run each operator alone on the sample; operators after a mapper see its captions."""
    measured = []
    for built in operators:
        start = time.monotonic()
        with suppress(UserError):  # warm-up only; errors on the whole sample are raised below
            process(sample.slice(0, FIRST_ROWS), [built])
        load_seconds = time.monotonic() - start
        processed = process(sample, [built])
        result = Measured(
            name=built.name,
            is_filter=built.is_filter,
            needs_set=built.needs_set,
            rows=sample.num_rows,
            rejected=processed.rejects.num_rows,
            quarantined=processed.quarantine.num_rows,
            seconds=max(processed.operators[0]["seconds"], 1e-6),
            load_seconds=load_seconds,
        )
        log(f"{PLAN}: {built.name}: {result.rows / result.seconds:.0f} rows/s, {result.share_kept:.1%} kept")
        measured.append(result)
        if not built.is_filter and not built.needs_set and processed.kept.num_rows:
            sample = processed.kept
    return measured


def differing(first: pa.Table, second: pa.Table) -> int:
    """Count rows that are in one table only or differ between both."""
    left, right = ({row["id"]: row for row in table.to_pylist()} for table in (first, second))
    return sum(left.get(name) != right.get(name) for name in left.keys() | right.keys())


def operator_rows(measured: Sequence[Measured], planned: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows of schema ``OPERATORS``."""
    return [
        {
            "list": "process",
            "position": position + 1,
            "planned": planned.index(position) + 1,
            "operator": result.name,
            "rows_per_second": result.rows / result.seconds,
            "load_seconds": result.load_seconds,
            "share_kept": result.share_kept,
            "seconds_per_reject": result.cost_per_reject if math.isfinite(result.cost_per_reject) else None,
            "moves": result.moves,
        }
        for position, result in enumerate(measured)
    ]


def refilter_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return rows of schema ``OPERATORS`` for a list that keeps its order."""
    rows = operator_rows(measured, range(len(measured)))
    return [{**row, "list": "caption.refilter", "moves": REFILTER_STAYS} for row in rows]


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    register_operators(run)
    entries, refilter = run.recipe.process, run.recipe.refilter
    return {
        "process": with_limits(entries, inputs["seed_profile"][0]),
        "refilter": with_limits(refilter, inputs["seed_profile"][0]),
        "models": list_key(run, [*entries, *refilter]),
        "gpu": run.gpu.key(),
        "sample_rows": SAMPLE_ROWS,
    }


OPERATOR_PLAN = Stage(
    name=PLAN,
    version=2,
    rules=(SAME_KEPT,),
    run=run,
    depends=depends,
    sharded=False,
    inputs=("clip_scores", "seed_profile"),
    by_value=("seed_profile",),
    preflight=check_recipe,
    libraries=("py-data-juicer", "torch", "transformers", "pillow"),
)
