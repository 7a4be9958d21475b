"""Jobs, schedule and sensor. In: recipes, the profile's cron schedule, the seed file. Out: runs of all shards.

Each recipe has a job; schedule and sensor run the default recipe's. Both are stopped by default. Their runs rebuild
only what has changed, because results are keyed by content.
"""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

# Private: the type that `dg.define_asset_job` returns has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.defs.partitions import all_shards
from bettersynth_assets.defs.recipe_assets import RecipeAssets
from bettersynth_assets.engine.stage import Stage


def build_job(assets: RecipeAssets, stages: Sequence[Stage]) -> UnresolvedAssetJobDefinition:
    """Build the job that materializes all sets of one recipe, including those that it shares with other recipes."""
    return dg.define_asset_job(
        assets.job,
        selection=dg.AssetSelection.assets(*map(assets.key, stages)),
        description=f"Materializes every set of the recipe {assets.recipe.name}: {assets.recipe.description}",
    )


def build_schedule(profile: Profile, job: str) -> dg.ScheduleDefinition:
    """Build the schedule that runs a job at the profile's times."""

    @dg.schedule(
        name="scheduled_rerun",
        job_name=job,
        cron_schedule=profile.schedule,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Materializes the default recipe at the profile's times; only what is out of date is rebuilt.",
    )
    def scheduled_rerun(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=all_shards(profile))

    return scheduled_rerun


def build_sensor(profile: Profile, job: str) -> dg.SensorDefinition:
    """Build the sensor that runs a job when the seed file changes."""

    @dg.sensor(
        name="seed_file_changed",
        job_name=job,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=60,
        description="Requests a run when the size or time of the seed file changes; the first check only records them.",
    )
    def seed_file_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if profile.seed is None:
            return dg.SkipReason("the profile has no seed file: the miniature world is generated")
        path = PROJECT_ROOT / profile.seed
        if not path.is_file():
            return dg.SkipReason(f"seed file {path} does not exist")
        state = fingerprint(path)
        if context.cursor is None:
            return dg.SensorResult(
                cursor=state, skip_reason=dg.SkipReason(f"first check of {path}; its state is recorded")
            )
        if context.cursor == state:
            return dg.SkipReason(f"{path} has not changed")
        return dg.SensorResult(run_requests=[dg.RunRequest(tags=all_shards(profile))], cursor=state)

    return seed_file_changed


def fingerprint(path: Path) -> str:
    """Return size and modification time of a file. Stages compare contents, so a touched file rebuilds nothing."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
