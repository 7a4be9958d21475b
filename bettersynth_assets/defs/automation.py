"""Scheduled reruns. In: the profile's cron line, and the seed file. Out: one run request over all shards.

Both are off until they are switched on. A run that they start redoes only what changed: stages are content-keyed.
"""

from pathlib import Path

import dagster as dg

# Private: the type that `dg.define_asset_job` returns has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.defs.partitions import all_shards

JOB = "everything"


def build_job() -> UnresolvedAssetJobDefinition:
    """All assets, as one job."""
    return dg.define_asset_job(JOB, selection=dg.AssetSelection.all(), description="Materializes every asset.")


def build_schedule(profile: Profile) -> dg.ScheduleDefinition:
    """A rerun at the profile's times."""

    @dg.schedule(
        name="scheduled_rerun",
        job_name=JOB,
        cron_schedule=profile.schedule,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Materializes everything at the profile's times; only what is out of date is rebuilt.",
    )
    def scheduled_rerun(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=all_shards(profile))

    return scheduled_rerun


def build_sensor(profile: Profile) -> dg.SensorDefinition:
    """A rerun when the seed file has changed since the sensor last looked."""

    @dg.sensor(
        name="seed_file_changed",
        job_name=JOB,
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=60,
        description="Requests a run when the size or time of the seed file changes; the first check only records them.",
    )
    def seed_file_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if profile.seed is None:
            return dg.SkipReason("the profile has no seed file: the miniature world is generated")
        path = PROJECT_ROOT / profile.seed
        if not path.is_file():
            return dg.SkipReason(f"no seed file at {path}")
        found = fingerprint(path)
        if context.cursor is None:
            return dg.SensorResult(cursor=found, skip_reason=dg.SkipReason(f"first look at {path}"))
        if context.cursor == found:
            return dg.SkipReason(f"{path} has not changed")
        return dg.SensorResult(run_requests=[dg.RunRequest(tags=all_shards(profile))], cursor=found)

    return seed_file_changed


def fingerprint(path: Path) -> str:
    """Size and time of a file; the stages compare contents, so a touched file costs one short run and no rework."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
