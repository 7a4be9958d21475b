"""Schedule and sensor are off by default, and request one run over all shards; the sensor only after a change."""

import os

import dagster as dg
import pytest

from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.config.settings import load_active_profile
from bettersynth_assets.definitions import build_definitions
from bettersynth_assets.defs.automation import build_schedule, build_sensor
from bettersynth_assets.defs.partitions import all_shards
from bettersynth_assets_tests.helpers.fake_graph import CARDS, STAGES

RANGE = {"dagster/asset_partition_range_start": "shard-00000", "dagster/asset_partition_range_end": "shard-00002"}


@pytest.fixture
def profile(data_root):
    return load_active_profile()


def look(sensor: dg.SensorDefinition, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    return sensor(dg.build_sensor_context(cursor=cursor))


def test_schedule_and_sensor_are_off_by_default(profile):
    assert build_schedule(profile, "third_place").default_status == dg.DefaultScheduleStatus.STOPPED
    assert build_sensor(profile, "third_place").default_status == dg.DefaultSensorStatus.STOPPED


def test_the_schedule_has_the_profiles_times_and_requests_one_run_over_all_shards(profile):
    schedule = build_schedule(profile.model_copy(update={"schedule": "5 4 * * 1"}), "third_place")
    assert schedule.cron_schedule == "5 4 * * 1"
    assert schedule(dg.build_schedule_context()).tags == RANGE == all_shards(profile)


def test_the_sensor_first_records_the_state_and_requests_a_run_only_after_a_change(profile, data_root):
    sensor = build_sensor(profile, "third_place")
    first = look(sensor, None)
    assert first.run_requests == []
    unchanged = look(sensor, first.cursor)
    assert "has not changed" in unchanged.skip_message
    (data_root / "seed.jsonl").write_text("{}\n")
    changed = look(sensor, first.cursor)
    assert [request.tags for request in changed.run_requests] == [RANGE]
    assert changed.cursor != first.cursor
    assert "has not changed" in look(sensor, changed.cursor).skip_message


def test_a_file_of_the_same_size_with_a_new_modification_time_has_changed(profile, data_root):
    sensor = build_sensor(profile, "third_place")
    first = look(sensor, None)
    os.utime(data_root / "seed.jsonl", ns=(1, 1))
    assert len(look(sensor, first.cursor).run_requests) == 1


def test_without_a_seed_file_the_sensor_skips_with_a_reason(profile):
    generated = build_sensor(profile.model_copy(update={"seed": None}), "third_place")
    assert "generated" in look(generated, None).skip_message
    gone = build_sensor(profile.model_copy(update={"seed": "/nowhere/seed.jsonl"}), "third_place")
    assert look(gone, None).skip_message == "seed file /nowhere/seed.jsonl does not exist"


@pytest.mark.slow
def test_the_requested_run_covers_partitioned_and_whole_sets(profile, instance):
    defs = build_definitions(STAGES, profile, load_recipes(profile), CARDS)
    schedule, sensor = defs.resolve_schedule_def("scheduled_rerun"), defs.resolve_sensor_def("seed_file_changed")
    assert schedule.job_name == sensor.job_name == "third_place"
    request = schedule(dg.build_schedule_context())
    result = defs.resolve_job_def(schedule.job_name).execute_in_process(instance=instance, tags=request.tags)
    assert result.success
    assert len(instance.get_materialized_partitions(dg.AssetKey("copies"))) == 3
    assert instance.get_latest_materialization_event(dg.AssetKey("total")) is not None
    assert instance.get_latest_materialization_event(dg.AssetKey(["clip_top_k", "total"])) is None
