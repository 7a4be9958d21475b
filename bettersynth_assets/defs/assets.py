"""Builds the assets. In: recipes, stages (how a set is built) and cards (how the UI presents it). Out: the assets.

All assets, including unpartitioned ones, have the single-run backfill policy. Without it, one run from the UI, the
command line or the schedule could not cover all shards.
"""

import dagster as dg

from bettersynth_assets.config.profile import Profile
from bettersynth_assets.defs.cards import OWNER, Card
from bettersynth_assets.defs.materialize import AssetPlan, StepRun, run_shards, run_whole, user_errors_as_failures
from bettersynth_assets.defs.partitions import shard_partitions
from bettersynth_assets.defs.recipe_assets import RecipeAssets
from bettersynth_assets.defs.resources.executor import MODEL_STEP, die_with_run
from bettersynth_assets.defs.resources.gpu import SectionResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.reports.columns import column_schema


def build_assets(
    stages: tuple[Stage, ...], recipes: tuple[RecipeAssets, ...], profile: Profile, cards: tuple[Card, ...]
) -> list[dg.AssetsDefinition]:
    """Build the assets of all recipes; a set that several recipes share is one asset."""
    by_name = {card.name: card for card in cards}
    built: dict[dg.AssetKey, dg.AssetsDefinition] = {}
    for assets in recipes:
        for stage in stages:
            if assets.key(stage) not in built:
                plan = AssetPlan(stages=stages, cards=cards, recipes=recipes, own=assets)
                built[assets.key(stage)] = build_asset(stage, by_name[stage.name], plan, profile)
    return [*built.values()]


def build_asset(stage: Stage, card: Card, plan: AssetPlan, profile: Profile) -> dg.AssetsDefinition:
    """Build one asset; its body opens the pipeline of its recipe and runs the selected shards."""
    by_name = {other.name: other for other in plan.stages}
    key = plan.own.key(stage)

    @dg.asset(
        key=key,
        partitions_def=shard_partitions(profile) if stage.sharded else None,
        deps=[plan.own.key(by_name[name]) for name in sorted({*stage.inputs, *card.also_after})],
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=str(stage.version),
        group_name=plan.own.group(stage, card.group),
        kinds=set(card.kinds),
        owners=[OWNER],
        description=card.description,
        metadata={} if stage.columns is None else {"dagster/column_schema": column_schema(stage.columns)},
        check_specs=[
            dg.AssetCheckSpec(rule.name, asset=key, description=rule.description, blocking=rule.blocking)
            for rule in stage.rules
        ],
        **(MODEL_STEP if card.uses_models else {}),
    )
    def materialize_stage(
        context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource
    ) -> dg.MaterializeResult:
        die_with_run()
        with user_errors_as_failures():
            step = StepRun(context, stage.name, plan, settings, gpu)
            return run_shards(step) if stage.sharded else run_whole(step)

    return materialize_stage
