"""Frees places in the pool of model steps that dead runs still hold.

    python -m bettersynth_assets.free_slots             # of runs whose process is gone, as each run does when it starts
    python -m bettersynth_assets.free_slots --run ID    # of one run, whatever its state; for storages beside SQLite

Run it in the project's folder, or with ``DAGSTER_HOME`` set. The GPUs themselves need no such command: their leases are
locks of the kernel, which go with the processes that hold them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import dagster as dg

# Private: `DagsterInstance.get` raises it, and the public `DagsterError` does not distinguish it from other errors.
from dagster._core.errors import DagsterHomeNotSetError

from bettersynth_assets.command_line import use_home
from bettersynth_assets.defs.resources.executor import free_dead_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text. Exit code 2: there is no such run, or no instance."""
    parser = argparse.ArgumentParser(prog="python -m bettersynth_assets.free_slots", description="Free the pool.")
    parser.add_argument("--run", metavar="ID", help="free what this run holds, even if it seems to be alive")
    given = parser.parse_args(arguments)
    use_home()
    try:
        instance = dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        print(
            "error: DAGSTER_HOME is not set and this folder has no dagster.yaml; run it in the project", file=sys.stderr
        )
        return 2
    with instance:
        if given.run is None:
            freed = free_dead_runs(instance)
        elif instance.has_run(given.run):
            instance.event_log_storage.free_concurrency_slots_for_run(given.run)
            freed = [given.run]
        else:
            print(f"error: there is no run {given.run!r}; `dagster run list` shows them", file=sys.stderr)
            return 2
    for run_id in freed:
        print(f"run {run_id}: its place in the pool is free")
    if not freed:
        print("no run whose process is gone holds a place in the pool")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
