"""How a run's steps become processes. In: a run. Out: one process per step, which dies with the run.

Adds two things to Dagster's multiprocess executor. Steps are forked from a server that has the definitions loaded,
because loading them again costs each step about two seconds. And the pool's slots of killed runs are freed first:
Dagster frees them only after runs that ended in order, so one ``kill -9`` would make every later run wait.
"""

from __future__ import annotations

import logging
import multiprocessing

import dagster as dg
import psutil

# Private: Dagster exports neither the schema and requirements of its multiprocess executor nor its storage classes.
from dagster._core.definitions.executor_definition import MULTI_PROC_CONFIG, multiple_process_executor_requirements
from dagster._core.storage.event_log import SqliteEventLogStorage

from bettersynth_assets.scheduler.process_lifetime import die_with_parent

_FORKED = {
    "forkserver": {
        "preload_modules": ["bettersynth_assets.scheduler.process_lifetime", "bettersynth_assets.definitions"]
    }
}


@dg.executor(
    name="multiprocess",
    config_schema=MULTI_PROC_CONFIG,
    requirements=multiple_process_executor_requirements(),
)
def step_processes(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Dagster's multiprocess executor, forking, after the slots of dead runs are freed."""
    for run_id in free_dead_runs(init_context.instance):
        logging.getLogger("dagster").warning("run %s was killed; its place in the pool is free again", run_id)
    config = {"start_method": _FORKED, **init_context.executor_config}
    assert dg.multiprocess_executor.executor_creation_fn is not None
    created: dg.Executor = dg.multiprocess_executor.executor_creation_fn(init_context._replace(executor_config=config))
    return created


def free_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Free the slots that runs hold whose process is gone, and mark these runs as failed.

    Only where runs are kept in SQLite: then they all belong to this machine, and a process number means something.

    Returns:
        The ids of those runs.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    holders = {run_id for pool in storage.get_concurrency_keys() for run_id in _holders(instance, pool)}
    dead = sorted(run_id for run_id in holders if not _alive(instance, run_id))
    for run_id in dead:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, "The process of this run is gone.")
        storage.free_concurrency_slots_for_run(run_id)
    return dead


def die_with_run() -> None:
    """End this step's process when the run's process ends, however that ends; nothing in a run of one process."""
    if multiprocessing.parent_process() is not None:
        die_with_parent()


def _holders(instance: dg.DagsterInstance, pool: str) -> set[str]:
    found = instance.event_log_storage.get_concurrency_info(pool)
    return {slot.run_id for slot in found.claimed_slots} | found.pending_run_ids | found.assigned_run_ids


def _alive(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the process that the run's own log names still runs, and is the one that wrote it."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        number = event.engine_event_data.metadata.get("pid") if event is not None else None
        if number is not None and psutil.pid_exists(int(str(number.value))):
            return psutil.Process(int(str(number.value))).create_time() <= record.event_log_entry.timestamp
    return False
