"""Workers give the same rows as no workers, a crash affects only one shard, and no worker outlives the run."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import dagster as dg
import psutil
import pytest
from pydantic import Field

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.defs.resources.gpu import GpuResource, resource_of
from bettersynth_assets.engine import scheduler
from bettersynth_assets.errors import ConfigError, DeviceError, UserError
from bettersynth_assets.scheduler.dispatcher import WorkerError
from bettersynth_assets.scheduler.lease import MASK
from bettersynth_assets.scheduler.local_pool import LocalPool
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.fake_graph import ROWS
from bettersynth_assets_tests.helpers.run_results import failure, partitions_of
from bettersynth_assets_tests.helpers.worker_graph import POOLED, SHARDS, Run, settings_of, until

pytestmark = pytest.mark.slow

# Each worker is a process that imports the stages; a test whose claim needs no two of them at a time has one.
ONE, TWO = SHARDS[:2]
RUN = "import sys, pathlib; from bettersynth_assets_tests.helpers.worker_graph import Run; "
WORKERS = {"resources": {"gpu": {"config": {"workers": "2"}}}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Kept tables from a run without workers."""
    run = Run(tmp_path_factory.mktemp("alone"))
    run.pipeline.ensure_all("scaled")
    return run.rows()


def processes(run: Run, stage: str) -> set[int]:
    return {int(process) for name, _, process, *_ in run.worked() if name == stage}


def test_workers_give_the_same_bytes_and_whole_sets_are_built_in_the_step(alone, tmp_path):
    (tmp_path / f"meet-squares-{ONE}").write_text(TWO)  # ends only if another worker runs at the same time
    run = Run(tmp_path)
    assert run.prepare() == {}
    assert run.rows() == alone
    assert len(processes(run, "squares")) >= 2
    assert os.getpid() not in processes(run, "squares") | processes(run, "scaled")
    assert processes(run, "numbers") == processes(run, "total") == {os.getpid()}
    assert {manifest.stage: manifest.kept for manifest in run.pipeline.materialized} == {
        "numbers": 3, "squares": 3, "total": 1, "scaled": 3,
    }  # fmt: skip
    assert sorted(run.log) == sorted(f"{stage} {shard} begins" for stage, shard, *_ in run.worked())
    cores = len(os.sched_getaffinity(0))
    assert {threads for stage, *_, threads in run.worked() if stage == "squares"} == {str(max(1, cores // 2))}


def test_a_killed_workers_shard_is_redone_by_another(alone, tmp_path):
    (tmp_path / f"die-once-squares-{TWO}").touch()
    run = Run(tmp_path, workers=1)
    assert run.prepare() == {}
    assert run.rows() == alone
    tries = [process for stage, shard, process, *_ in run.worked() if (stage, shard) == ("squares", TWO)]
    assert len(set(tries)) == 2
    assert len([1 for stage, *_ in run.worked() if stage == "squares"]) == len(SHARDS) + 1
    assert f"squares {TWO}: its worker died (signal SIGKILL); another worker processes it again" in run.log


def test_a_shard_that_crashes_two_workers_fails_by_name_and_the_others_continue(tmp_path):
    (tmp_path / f"die-squares-{TWO}").touch()
    run = Run(tmp_path, workers=1)
    failed = run.prepare("squares")
    assert failed == {TWO: "2 workers died while processing it, the last one: signal SIGKILL"}
    assert [manifest.shard for manifest in run.pipeline.current("squares")] == [ONE, *SHARDS[2:]]


def test_a_failed_shard_fails_only_what_is_built_from_it(tmp_path):
    (tmp_path / f"break-squares-{TWO}").touch()
    run = Run(tmp_path, workers=1)
    words = f"OSError: cannot read {TWO}"
    assert run.prepare("squares") == {TWO: words}
    assert any("Traceback" in line and words in line for line in run.log)
    # The total needs all shards, so one failed shard also fails the total and what needs it.
    assert run.prepare("scaled") == {
        shard: f"squares {TWO} failed: {words}" if shard == TWO else f"total all failed: squares {TWO} failed: {words}"
        for shard in SHARDS
    }
    (tmp_path / f"break-squares-{TWO}").unlink()
    again = Run(tmp_path, workers=1)
    assert again.prepare("scaled") == {}
    assert [manifest.shard for manifest in again.pipeline.materialized if manifest.stage == "squares"] == [TWO]


def test_a_failed_input_outside_the_pool_fails_only_its_shard(tmp_path):
    (tmp_path / f"break-numbers-{TWO}").touch()
    run = Run(tmp_path, workers=1)
    assert run.prepare("squares") == {TWO: f"numbers {TWO} failed: cannot read {TWO}"}
    assert len(run.pipeline.current("squares")) == len(SHARDS) - 1


def test_a_user_error_ends_the_run_and_its_workers_at_once(tmp_path):
    (tmp_path / f"refuse-squares-{TWO}").touch()
    (tmp_path / f"wait-squares-{ONE}").touch()  # would run longer than the test's time limit
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"model path 'x' does not exist: set models\.clip"):
        run.prepare()
    workers = processes(run, "squares")
    assert workers
    assert not any(psutil.pid_exists(process) for process in workers)


def test_only_stale_shards_go_to_workers_and_no_worker_starts_without_one(tmp_path, monkeypatch):
    Run(tmp_path, workers=1).prepare("squares", [ONE, TWO])
    second = Run(tmp_path, workers=1)
    second.prepare("squares")
    built = sorted(manifest.shard for manifest in second.pipeline.materialized if manifest.stage == "squares")
    assert built == SHARDS[2:]
    before = Run(tmp_path).worked()
    monkeypatch.setattr(scheduler, "open_pool", None)  # opening a pool would fail
    again = Run(tmp_path)
    assert again.prepare("squares") == {}
    assert again.pipeline.materialized == []
    assert again.worked() == before


def test_workers_that_cannot_start_fail_the_run(tmp_path, monkeypatch):
    run = Run(tmp_path)
    for shard in SHARDS:
        run.pipeline.ensure("numbers", shard)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match=r"squares: workers exit before they receive a shard \(exit code 1\)"):
        run.prepare("squares")


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    for shard in SHARDS:
        (tmp_path / f"wait-squares-{shard}").touch()
    run = Run(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{RUN} Run(pathlib.Path({str(tmp_path)!r})).prepare()"], cwd=PROJECT_ROOT
    )
    try:
        until(lambda: len(processes(run, "squares")) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not any(psutil.pid_exists(process) for process in processes(run, "squares")))


def test_concurrent_runs_share_devices_and_shards_without_deadlock(alone, tmp_path, monkeypatch):
    monkeypatch.setenv(MASK, "7701,7702")  # no machine has these devices; leases do not check
    gpu = "devices='auto', workers='auto'"
    code = f"{RUN} sys.exit(bool(Run(pathlib.Path({str(tmp_path)!r}), {gpu}).prepare('squares')))"
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT_ROOT) for _ in range(2)]
    try:
        assert [run.wait(timeout=600) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    done = Run(tmp_path)
    assert len(done.rows()) == 2 * len(SHARDS)  # of numbers and squares
    assert done.rows().items() <= alone.items()
    worked = [(stage, shard) for stage, shard, *_ in done.worked()]
    assert sorted(worked) == sorted(set(worked))
    assert {mask for stage, _, _, mask, _ in done.worked() if stage in POOLED} <= {"7701", "7702"}


def test_each_worker_needs_its_own_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv(MASK, "3,5")
    assert LocalPool(Run(tmp_path, devices="auto", workers="auto").job).devices == ["3", "5"]
    assert LocalPool(Run(tmp_path, devices=[1], workers="auto").job).size == 1
    with pytest.raises(DeviceError, match=r"gpu.workers = 3, but there are 2 GPUs"):
        LocalPool(Run(tmp_path, devices="auto", workers=3).job)


@pytest.mark.parametrize(
    "values", [{}, {"clip_batch": "auto", "workers": "auto"}, {"workers": 3, "pool": "ray", "ray_address": "h:1"}]
)
def test_the_resource_shows_the_profiles_values_and_returns_them_unchanged(tmp_path, values):
    settings = settings_of(tmp_path, **values)
    assert GpuResource.of(settings.profile.gpu).apply(settings) == settings
    changed = GpuResource(workers="2", clip_batch=16).apply(settings).profile.gpu
    assert (changed.workers, changed.clip_batch) == (2, 16)


def test_a_new_field_of_the_section_is_a_field_of_the_resource_and_a_launch_can_change_it(tmp_path):
    class NewerGpu(Gpu):
        streams: int = Field(default=1, ge=1)
        """CUDA streams."""

    settings = settings_of(tmp_path)
    settings = replace(settings, profile=settings.profile.model_copy(update={"gpu": NewerGpu(devices="cpu")}))
    newer = resource_of("NewerResource", NewerGpu)
    assert newer.model_fields["streams"].description == "CUDA streams."
    assert newer.of(settings.profile.gpu).apply(settings) == settings
    launched = dg.materialize(
        [_shows_streams],
        resources={"gpu": newer.of(settings.profile.gpu)},
        run_config={"resources": {"gpu": {"config": {"streams": 4}}}},
    )
    assert launched.success
    assert newer(streams=4).apply(settings).profile.gpu.streams == 4
    with pytest.raises(ConfigError, match="resource gpu: streams = 0"):
        newer(streams=0).apply(settings)


@dg.asset(required_resource_keys={"gpu"})
def _shows_streams(context) -> None:
    assert context.resources.gpu.streams == 4


def test_devices_of_a_launch_may_be_a_list_or_text(tmp_path):
    settings = settings_of(tmp_path)
    for devices in ("0,1", [0, 1]):
        assert GpuResource(devices=devices).apply(settings).profile.gpu.devices == [0, 1]
    assert GpuResource(devices="1").apply(settings).profile.gpu.devices == [1]


def test_keys_do_not_contain_worker_settings_and_each_use_contains_only_its_fields():
    assert Gpu().key() == Gpu(workers="auto", pool="ray", ray_address="h:1", batch_sizes="f").key() == {}
    gpu = Gpu(decode="nvjpeg", caption_batch=8, compiled=True, devices="cpu", dtype="bfloat16")
    assert gpu.key("clip") == {"decode": "nvjpeg", "compiled": True, "dtype": "bfloat16"}
    assert gpu.key("captioner") == {"decode": "nvjpeg", "caption_batch": 8, "dtype": "bfloat16"}
    assert gpu.key("training") == {"dtype": "bfloat16"}


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": "all"}, {"pool": "slurm"}, {"clip_batch": 0}])
def test_invalid_values_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"gpu: {next(iter(wrong))}"):
        Gpu.parse(wrong, where="gpu")


def test_the_real_stages_can_be_pickled_for_workers():
    sent = pickle.loads(pickle.dumps(STAGES))
    assert [(stage.name, stage.version, stage.inputs) for stage in sent] == [
        (stage.name, stage.version, stage.inputs) for stage in STAGES
    ]


def test_each_shard_is_reported_to_dagster_once_with_the_log_lines_of_workers(materialize, instance, data_root):
    result = materialize("rows", "copies", "total", run_config=WORKERS)
    assert result.success
    assert partitions_of(instance, "copies") == ["shard-00000", "shard-00001", "shard-00002"]
    reported = [event for event in result.all_events if event.is_step_materialization and event.step_key == "copies"]
    assert len(reported) == 2 * 3  # once when a shard is done, and once by Dagster at the end of the step
    lines = [entry.user_message for entry in instance.all_logs(result.run_id) if "copied by" in entry.user_message]
    assert sorted(line.split(" copied")[0] for line in lines) == ["shard-00000", "shard-00001", "shard-00002"]
    assert not any(line.endswith(f"process {os.getpid()}") for line in lines)


@pytest.mark.parametrize("config", [None, WORKERS], ids=["alone", "workers"])
def test_the_log_counts_the_shards_of_the_launch_that_are_not_up_to_date(config, materialize, instance, monkeypatch):
    monkeypatch.setattr("toolkit.progress.SECONDS_BETWEEN_LINES", 0.0)
    assert materialize("rows", shards=("shard-00000", "shard-00000")).success
    result = materialize("rows", "copies", run_config=config)
    assert result.success
    lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    counted = [line.partition(" rows/s")[0].rpartition(",")[0] for line in lines if " shards, " in line]
    assert [line for line in counted if line.startswith("copies")] == [
        f"copies: {shards}/3 shards, {shards * (ROWS - 1)} rows" for shards in (1, 2, 3)
    ]
    assert [line for line in counted if line.startswith("rows")] == [
        f"rows: {shards}/2 shards, {shards * ROWS} rows" for shards in (1, 2)
    ]
    assert all(line.endswith(" s left") for line in lines if " shards, " in line)


def test_upstream_sets_built_by_workers_are_reported_as_materialized_assets(materialize, instance):
    assert materialize("total", run_config=WORKERS).success
    assert partitions_of(instance, "copies") == ["shard-00000", "shard-00001", "shard-00002"]


def test_dagster_names_a_shard_that_failed_because_of_its_input(materialize, data_root):
    (data_root / "break-shard-00001").touch()
    result = materialize("copies", shards=("shard-00000", "shard-00001"), run_config=WORKERS)
    assert failure(result, "copies").startswith(
        "1 of 2 shards of copies failed: shard-00001: rows shard-00001 failed: OSError: cannot read shard-00001."
    )
