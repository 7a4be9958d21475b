"""Builds the assets. In: a stage (how a set is built) and a card (how the UI presents it). Out: a Dagster asset.

All assets, including unpartitioned ones, have the single-run backfill policy. Without it, one run from the UI, the
command line or the schedule could not cover all shards.
"""

import dagster as dg

from bettersynth_assets.config.profile import Profile
from bettersynth_assets.defs.cards import OWNER, Card
from bettersynth_assets.defs.materialize import StepRun, run_shards, run_whole, user_errors_as_failures
from bettersynth_assets.defs.partitions import shard_partitions
from bettersynth_assets.defs.resources.executor import die_with_run
from bettersynth_assets.defs.resources.gpu import SectionResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.reports.columns import column_schema

GPU_POOL = "gpu"


def build_assets(stages: tuple[Stage, ...], profile: Profile, cards: tuple[Card, ...]) -> list[dg.AssetsDefinition]:
    """Build one asset per stage, in the order of ``stages``."""
    by_name = {card.name: card for card in cards}
    return [build_asset(stage, by_name[stage.name], stages, profile, cards) for stage in stages]


def build_asset(
    stage: Stage, card: Card, stages: tuple[Stage, ...], profile: Profile, cards: tuple[Card, ...]
) -> dg.AssetsDefinition:
    """Build the asset of one stage; its body opens the pipeline and runs the selected shards."""

    @dg.asset(
        name=stage.name,
        partitions_def=shard_partitions(profile) if stage.sharded else None,
        deps=sorted({*stage.inputs, *card.also_after}),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GPU_POOL if card.uses_models else None,
        code_version=str(stage.version),
        group_name=card.group,
        kinds=set(card.kinds),
        owners=[OWNER],
        description=card.description,
        metadata={} if stage.columns is None else {"dagster/column_schema": column_schema(stage.columns)},
        check_specs=[
            dg.AssetCheckSpec(rule.name, asset=stage.name, description=rule.description, blocking=rule.blocking)
            for rule in stage.rules
        ],
    )
    def materialize_stage(
        context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource
    ) -> dg.MaterializeResult:
        die_with_run()
        with user_errors_as_failures():
            step = StepRun(context, stage.name, stages, cards, settings, gpu)
            return run_shards(step) if stage.sharded else run_whole(step)

    return materialize_stage
