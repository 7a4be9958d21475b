"""Runs over a range of shards: what is reported, what continues after a failure, what a rerun redoes."""

from dataclasses import replace
from types import SimpleNamespace

import dagster as dg
import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.defs.materialize import check_side_inputs
from bettersynth_assets.defs.run_inputs import TAG, refuse_changed_inputs
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import SeedError
from bettersynth_assets_tests.helpers.fake_graph import ROWS, STAGES
from bettersynth_assets_tests.helpers.run_results import SHARDS, failure, partitions_of


def latest(instance: dg.DagsterInstance, name: str, partition: str | None = None) -> dict[str, object]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(name), asset_partitions=[partition] if partition else None), limit=1
    ).records
    return {key: value.value for key, value in records[0].asset_materialization.metadata.items()}


@pytest.mark.slow
def test_a_range_run_materializes_every_shard_and_the_whole_sets(materialize, instance):
    assert materialize().success
    assert partitions_of(instance, "rows") == SHARDS
    assert partitions_of(instance, "copies") == SHARDS
    shown = latest(instance, "rows", "shard-00001")
    assert shown["dagster/partition_row_count"] == shown["kept"] == ROWS - 1
    assert (shown["rows_in"], shown["rejected"], shown["quarantined"]) == (ROWS, 0, 1)
    assert shown["quarantined_by_reason"] == {"missing_image": 1}
    assert (shown["truncated"], shown["share"]) == (2, 0.25)
    assert "words_histogram" in shown
    assert 0 < shown["peak_rss_gib"] < 100
    assert "gallery" in shown
    total = latest(instance, "total")
    assert total["dagster/row_count"] == 1
    assert total["rows"] == 3 * (ROWS - 1)
    assert total["loss"].startswith("![curve]")


def test_one_shard_can_be_run_alone(materialize, instance):
    assert materialize("rows", "copies", shards=(SHARDS[1], SHARDS[1])).success
    assert partitions_of(instance, "copies") == [SHARDS[1]]


@pytest.mark.slow
def test_a_failed_shard_does_not_stop_the_others_and_the_rerun_redoes_only_it(materialize, instance, data_root):
    broken = data_root / "break-shard-00001"
    broken.touch()
    result = materialize()
    assert not result.success
    words = failure(result, "rows")
    assert words.startswith("1 of 3 shards of rows failed: shard-00001: OSError: cannot read shard-00001.")
    assert partitions_of(instance, "rows") == [SHARDS[0], SHARDS[2]]
    before = latest(instance, "rows", SHARDS[0])["made"]
    manifest = data_root / "tiny" / "shared" / "rows" / SHARDS[0] / "manifest.json"
    written = manifest.stat().st_mtime_ns

    broken.unlink()
    assert materialize().success
    assert partitions_of(instance, "rows") == SHARDS
    assert latest(instance, "rows", SHARDS[0])["made"] == before
    assert manifest.stat().st_mtime_ns == written


@pytest.mark.slow
def test_an_environment_fault_fails_its_shard_with_the_cause_in_one_line(materialize, instance, data_root):
    (data_root / "unmounted-shard-00001").touch()
    result = materialize()
    words = failure(result, "rows")
    folder = data_root / "images"
    cause = f"folder {folder} does not exist ({folder}/0.jpg did): mount or restore it and run again"
    assert words.startswith(f"1 of 3 shards of rows failed: shard-00001: {cause}. The others are done")
    assert partitions_of(instance, "rows") == [SHARDS[0], SHARDS[2]]
    (data_root / "unmounted-shard-00001").unlink()
    assert materialize().success
    assert partitions_of(instance, "rows") == SHARDS


def test_a_user_error_stops_the_run_at_once_and_shows_only_the_cause_and_the_fix(materialize, data_root):
    (data_root / "user-error").touch()
    result = materialize()
    assert failure(result, "rows") == "model path 'x' does not exist: set models.clip"
    assert not any("continuing with the other shards" in (event.message or "") for event in result.all_events)


def test_upstream_sets_that_a_run_builds_are_reported_as_materialized_assets(materialize, instance):
    assert materialize("total").success
    assert partitions_of(instance, "rows") == SHARDS
    assert partitions_of(instance, "copies") == SHARDS


@pytest.mark.slow
def test_up_to_date_upstream_sets_are_not_reported_again(materialize, instance):
    assert materialize().success
    events = instance.fetch_materializations(dg.AssetKey("rows"), limit=100).records
    assert materialize("total").success
    assert len(instance.fetch_materializations(dg.AssetKey("rows"), limit=100).records) == len(events)


def test_a_lost_row_fails_the_blocking_check_and_stops_downstream_assets(materialize, data_root):
    (data_root / "lose-a-row").touch()
    result = materialize()
    assert not result.success
    steps = {event.step_key for event in result.all_events if event.is_step_success}
    assert "total" not in steps


@pytest.mark.slow
def test_checks_report_their_findings(materialize, instance):
    result = materialize()
    found = {
        (check.asset_key.to_user_string(), check.check_name): check for check in result.get_asset_check_evaluations()
    }
    assert found["rows", "rows_conserved"].passed
    assert found["rows", "rows_conserved"].description == f"{3 * ROWS} rows in, none lost"
    assert found["copies", "schema"].passed


def test_a_recipe_in_the_run_config_is_refused_with_the_selection_that_replaces_it(materialize):
    config = {"resources": {"settings": {"config": {"recipe": "clip_top_k"}}}}
    words = failure(materialize("rows", run_config=config), "rows")
    assert words.startswith("resources.settings.config.recipe = 'clip_top_k' is not supported any more: ")
    assert "--assets 'key:\"clip_top_k/recaptioned_set\"+'" in words


def test_a_missing_gpu_is_refused_by_name(materialize, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = {"resources": {"gpu": {"config": {"devices": "0"}}}}
    result = materialize("rows", "copies", run_config=config)
    assert failure(result, "copies").startswith("gpu.devices = [0] requests GPU 0, but this process sees no GPU")


@pytest.mark.slow
def test_an_unusable_data_root_gives_one_error_that_names_its_variable(materialize, data_root, monkeypatch):
    (data_root / "file").touch()
    for root, cause in ((data_root / "file", "is not a folder"), ("/proc/nope", "/proc is not writable")):
        monkeypatch.setenv("BETTERSYNTH_DATA", str(root))
        result = materialize()
        words = failure(result, "rows")
        assert words.startswith(f"BETTERSYNTH_DATA = '{root}' cannot be used: ") and cause in words
        assert len([event for event in result.all_events if event.is_step_failure]) == 1


@pytest.mark.slow
def test_a_side_input_of_a_later_stage_is_checked_before_the_first_stage_runs(materialize, data_root, instance):
    (data_root / "broken-benchmark").touch()
    result = materialize()
    assert failure(result, "rows") == "the benchmark of `total` is broken: name another"
    assert partitions_of(instance, "rows") == []
    assert materialize("rows").success


def test_a_side_input_is_checked_once_in_a_run(data_root):
    calls = []

    def check(run):
        calls.append(run.settings)
        return ()

    stages = [replace(stage, preflight=check) if stage.name == "total" else stage for stage in STAGES]

    def step(name, selected):
        """Begin a step, which is a process of its own."""
        pipeline = Pipeline(stages, ResolvedRun(load_settings()))
        check_side_inputs(pipeline, name, selected)
        pipeline.preflight(["total"])  # as before the stage builds a shard

    for stage in STAGES:
        step(stage.name, {stage.name for stage in STAGES})
    assert calls == [load_settings()]
    step("total", {"total"})
    assert len(calls) == 2
    step("copies", {"copies"})  # would build `total` without a check by an earlier step
    assert len(calls) == 3


@pytest.mark.slow
def test_a_seed_file_that_changes_during_a_run_fails_it_and_the_next_run_is_consistent(materialize, data_root):
    (data_root / "change-seed-in-shard-00001").touch()
    result = materialize()
    assert not result.success
    words = failure(result, "copies")
    assert (
        words.startswith(f"seed file {data_root / 'seed.jsonl'} has changed during this run") and "run again" in words
    )
    assert not [event for event in result.all_events if event.is_step_success and event.step_key in ("copies", "total")]
    tags = {key: value for key, value in result.dagster_run.tags.items() if key == TAG}
    assert materialize(extra_tags=tags).success


def test_steps_of_one_run_compare_the_file_versions_that_they_read(data_root, instance):
    run_id = instance.create_run_for_job(dg.GraphDefinition("empty").to_job()).run_id
    other = instance.create_run_for_job(dg.GraphDefinition("empty").to_job()).run_id

    def step(run: str) -> None:
        """Run a step, which has its own pipeline."""
        context = SimpleNamespace(instance=instance, run_id=run)
        refuse_changed_inputs(context, Pipeline(STAGES, ResolvedRun(load_settings())))

    step(run_id)
    step(run_id)
    (data_root / "stage_1.json").write_text("[]")
    with pytest.raises(SeedError, match=r"questions file .*stage_1\.json has changed during this run"):
        step(run_id)
    instance.add_run_tags(other, instance.get_run_by_id(run_id).tags)  # as in a run that repeats this one
    step(other)
