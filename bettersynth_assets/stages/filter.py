"""filtered_set: the recipe's ``process:`` list. In: a shard of clip_scores, limits from seed_profile. Out: kept rows.

Kept rows carry Data-Juicer's ``stats`` as JSON. Each rejected row names the first operator that refused it, its value
and the limit. Limits are part of the key, so a shard is filtered again if and only if they or its rows change. Under
``order: planned`` the list runs in operator_plan's order; the key contains that order, not its timings. The kept rows
are the same, but a row that several operators refuse or fail on may be attributed to another one of them.
"""

from __future__ import annotations

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.operators.data_juicer import compares_images
from bettersynth_assets.operators.limits import with_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.records.schema import FILTERED
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.recipe_operators import list_key, ready_list, register_operators
from bettersynth_assets.stages.rules import EVERY_ROW_SET, ROWS_LEFT
from bettersynth_assets.stages.score import read_embeddings

NAME = "filtered_set"
PLAN = "operator_plan"


def process_list(run: ResolvedRun, inputs: Inputs) -> list[Operator]:
    """Return the recipe's operators with resolved limits, in the order in which they run."""
    limits = with_limits(run.recipe.process, inputs["seed_profile"][0])
    if run.recipe.order == "written":
        return limits
    return [limits[position] for position in inputs[PLAN][0].stats["order"]]


def run(work: Work) -> Result:
    """Filter one shard."""
    run, recipe = work.run, work.run.recipe
    limits = process_list(run, work.inputs)
    ready = ready_list(run, limits)
    table = work.rows("clip_scores")
    embeddings = read_embeddings(work.inputs["clip_scores"]) if compares_images(recipe.process) else None
    processed = run_process(
        table,
        ready.operators,
        stage=NAME,
        image_root=run.seed.images,
        rescore=ready.rescore,
        embeddings=embeddings,
        log=work.log_with_shard,
    )
    return Result(
        rows_in=table.num_rows,
        kept=processed.kept.cast(FILTERED),
        rejects=processed.rejects,
        quarantine=processed.quarantine,
        stats={"process": limits, "order": recipe.order, "operators": processed.operators},
    )


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    register_operators(run)
    return {"process": process_list(run, inputs), "models": list_key(run, run.recipe.process)}


def additional_inputs(run: ResolvedRun) -> tuple[str, ...]:
    """Return operator_plan if the recipe uses its order."""
    return (PLAN,) if run.recipe.order == "planned" else ()


FILTERED_SET = Stage(
    name=NAME,
    version=3,
    columns=FILTERED,
    rules=(*EVERY_ROW_SET, ROWS_LEFT),
    run=run,
    depends=depends,
    sharded=True,
    inputs=("clip_scores", "seed_profile"),
    by_value=("seed_profile", PLAN),
    additional_inputs=additional_inputs,
    preflight=check_recipe,
    libraries=("py-data-juicer", "torch", "transformers", "pillow"),
)
