"""Pool slots of killed runs are freed; running runs keep theirs."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys

import dagster as dg
import psutil
import pytest

# Private: the data of engine events, which the executor logs, has no public constructor.
from dagster._core.events import EngineEventData

from bettersynth_assets.defs.resources.executor import die_with_run, free_dead_runs
from bettersynth_assets.free_slots import main as free_slots_command

POOL = "gpu"


@pytest.fixture
def instance(tmp_path):
    limits = {"concurrency": {"pools": {"default_limit": 1, "granularity": "op"}}}
    with dg.instance_for_test(overrides=limits, temp_dir=str(tmp_path)) as made:
        made.event_log_storage.initialize_concurrency_limit_to_default(POOL)
        yield made


def hold(instance: dg.DagsterInstance, pid: int) -> str:
    """Create a started run of process ``pid`` that holds the pool's only slot."""
    run = dg.DagsterRun(job_name="third_place", status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ENGINE_EVENT.value,
        job_name="third_place",
        event_specific_data=EngineEventData.multiprocess(pid),
    )
    instance.report_dagster_event(event, run.run_id)
    assert instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, "clip_scores").is_claimed
    return run.run_id


def free_slots(instance: dg.DagsterInstance) -> int:
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return info.slot_count - len(info.claimed_slots)


@pytest.mark.slow
def test_the_slot_of_a_killed_run_is_freed_and_the_run_is_marked_as_failed(instance):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run_id = hold(instance, child.pid)
    assert free_dead_runs(instance) == []
    child.kill()
    child.wait()
    assert free_dead_runs(instance) == [run_id]
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
    assert free_slots(instance) == 1


@pytest.mark.slow
def test_a_running_run_keeps_its_slot(instance):
    hold(instance, os.getpid())
    assert free_dead_runs(instance) == []
    assert free_slots(instance) == 0


@pytest.mark.slow
def test_a_later_process_with_the_same_pid_is_not_mistaken_for_the_run(instance, monkeypatch):
    run_id = hold(instance, os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: float("inf"))
    assert free_dead_runs(instance) == [run_id]


@pytest.mark.slow
def test_the_command_frees_the_slot_of_a_dead_run_and_on_request_of_any_run(instance, monkeypatch, capsys):
    monkeypatch.setattr(dg.DagsterInstance, "get", lambda: instance)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run_id = hold(instance, child.pid)
    assert free_slots_command([]) == 0
    assert "no dead run holds a slot" in capsys.readouterr().out
    assert free_slots(instance) == 0
    child.kill()
    child.wait()
    assert free_slots_command([]) == 0
    assert run_id in capsys.readouterr().out
    assert free_slots(instance) == 1
    living = hold(instance, os.getpid())
    assert free_slots_command(["--run", living]) == 0
    assert free_slots(instance) == 1
    assert free_slots_command(["--run", "nobody"]) == 2
    assert "'nobody'" in capsys.readouterr().err


def test_the_command_reports_the_folder_that_it_must_run_in(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert free_slots_command([]) == 2
    assert "dagster.yaml" in capsys.readouterr().err


def parent_death_signal() -> int:
    """Return the signal that this process gets when its parent ends; 0 if none."""
    number = ctypes.c_int(-1)
    ctypes.CDLL(None).prctl(2, ctypes.byref(number))
    return number.value


def tied(queue: multiprocessing.Queue) -> None:
    die_with_run()
    queue.put(parent_death_signal())


@pytest.mark.slow
def test_only_the_process_of_a_step_is_bound_to_the_run():
    die_with_run()
    assert parent_death_signal() == 0
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=tied, args=(queue,))
    child.start()
    assert queue.get(timeout=300) == signal.SIGKILL
    child.join()
