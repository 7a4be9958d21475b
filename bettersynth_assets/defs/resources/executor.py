"""The executor. In: a run. Out: one process per step, which dies with the run.

Adds three features to Dagster's multiprocess executor. Steps are forked from a server that has loaded the definitions,
because loading them again would cost each step about two seconds. And pool slots of killed runs are freed first:
Dagster frees slots only when a run ends normally, so after a ``kill -9`` every later run would wait. And the steps of a
run that use models run one at a time by their tag: waiting for the pool's slot, a step would look for it at intervals
that grow to 15 seconds.
"""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

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

_USES_MODELS = "bettersynth/uses_models"
MODEL_STEP: dict[str, Any] = {"pool": "gpu", "op_tags": {_USES_MODELS: "true"}}
"""Arguments of an asset whose step uses models. The pool limits the steps of all runs, the tag those of one run."""


@dg.executor(
    name="multiprocess",
    config_schema=MULTI_PROC_CONFIG,
    requirements=multiple_process_executor_requirements(),
)
def step_processes(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Free the pool slots of dead runs, then create Dagster's multiprocess executor with a fork server."""
    for run_id in free_dead_runs(init_context.instance):
        logging.getLogger("dagster").warning("run %s was killed; its pool slots have been freed", run_id)
    given: dict[str, Any] = dict(init_context.executor_config)
    limits = [{"key": _USES_MODELS, "limit": 1}, *given.get("tag_concurrency_limits", [])]
    config = {"start_method": _FORKED, **given, "tag_concurrency_limits": limits}
    assert dg.multiprocess_executor.executor_creation_fn is not None
    created: dg.Executor = dg.multiprocess_executor.executor_creation_fn(init_context._replace(executor_config=config))
    return created


def free_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Free the pool slots of runs whose process has exited, and mark these runs as failed.

    Does so only if runs are stored in SQLite, because then all runs and their process ids belong to this machine.

    Returns:
        The ids of these runs.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    holders = {run_id for pool in storage.get_concurrency_keys() for run_id in _holders(instance, pool)}
    dead = sorted(run_id for run_id in holders if not _alive(instance, run_id))
    for run_id in dead:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            instance.report_run_failed(run, "The process of this run no longer exists.")
        storage.free_concurrency_slots_for_run(run_id)
    return dead


def die_with_run() -> None:
    """End this step's process when the run's process ends, however that ends; nothing in a run of one process."""
    if multiprocessing.parent_process() is not None:
        die_with_parent()


def _holders(instance: dg.DagsterInstance, pool: str) -> set[str]:
    info = instance.event_log_storage.get_concurrency_info(pool)
    return {slot.run_id for slot in info.claimed_slots} | info.pending_run_ids | info.assigned_run_ids


def _alive(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Return whether the process in the run's log is alive and older than the log entry (its id was not reused)."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        number = event.engine_event_data.metadata.get("pid") if event is not None else None
        if number is not None and psutil.pid_exists(int(str(number.value))):
            return psutil.Process(int(str(number.value))).create_time() <= record.event_log_entry.timestamp
    return False
