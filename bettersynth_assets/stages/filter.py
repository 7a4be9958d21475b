"""filtered_set: the recipe's ``process:`` list. In: a shard of clip_scores, limits from seed_profile. Out: kept rows.

Kept rows carry Data-Juicer's ``stats`` as JSON. Each rejected row names the first operator that refused it, its value
and the limit. Limits are part of the key, so a shard is filtered again if and only if they or its rows change. Under
``order: planned`` the list runs in operator_plan's order; the key contains that order, not its timings. The kept rows
are the same, but a row that several operators refuse or fail on may be attributed to another one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.operators.custom_operators import use_custom_operators
from bettersynth_assets.operators.data_juicer import (
    build_operators,
    compares_images,
    operators_key,
    own_similarity,
)
from bettersynth_assets.operators.process import Rescore, run_process
from bettersynth_assets.operators.recipe_check import check_once
from bettersynth_assets.operators.seed_scores import with_limits
from bettersynth_assets.records.schema import FILTERED
from bettersynth_assets.records.seed_path import image_root
from bettersynth_assets.stages.models import scorer_of
from bettersynth_assets.stages.rules import EVERY_ROW_SET, ROWS_LEFT
from bettersynth_assets.stages.score import read_embeddings

NAME = "filtered_set"
PLAN = "operator_plan"


def rescorer(settings: Settings) -> Rescore:
    """Return a function that scores captions changed by mappers with the model of clip_scores, loaded on first use."""

    def rescore(paths: Sequence[Path], captions: Sequence[str]) -> Sequence[float | ImageError]:
        if not captions:
            return []
        from bettersynth_assets.models.scorers.clip_files import score_files
        from bettersynth_assets.models.scorers.clip_score import load_scorer

        scored = score_files(load_scorer(scorer_of(settings), settings.profile.gpu), paths, captions)
        return [scored.errors.get(index, score) for index, score in enumerate(scored.scores.tolist())]

    return rescore


def process_list(settings: Settings, inputs: Inputs) -> list[Operator]:
    """Return the recipe's operators with resolved limits, in the order in which they run."""
    limits = with_limits(settings.recipe.process, inputs["seed_profile"][0])
    if settings.recipe.order == "written":
        return limits
    return [limits[position] for position in inputs[PLAN][0].stats["order"]]


def run(work: Work) -> Result:
    """Filter one shard."""
    settings, entries = work.settings, work.settings.recipe.process
    table = work.rows("clip_scores")
    check_once(settings)
    limits = process_list(settings, work.inputs)
    done = run_process(
        table,
        build_operators(limits, settings.profile),
        stage=NAME,
        image_root=image_root(settings),
        rescore=None if own_similarity(entries) else rescorer(settings),
        embeddings=read_embeddings(work.inputs["clip_scores"]) if compares_images(entries) else None,
        log=work.log_with_shard,
    )
    return Result(
        rows_in=table.num_rows,
        kept=done.kept.cast(FILTERED),
        rejects=done.rejects,
        quarantine=done.quarantine,
        stats={"process": limits, "order": settings.recipe.order, "operators": done.operators},
    )


def depends(settings: Settings, shard: str, inputs: Inputs) -> object:
    use_custom_operators(settings)
    return {
        "process": process_list(settings, inputs),
        "models": operators_key(settings.recipe.process, settings.profile),
    }


def also(settings: Settings) -> tuple[str, ...]:
    """Return operator_plan if the recipe uses its order."""
    return (PLAN,) if settings.recipe.order == "planned" else ()


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
    also=also,
    libraries=("py-data-juicer", "torch", "transformers", "pillow"),
)
