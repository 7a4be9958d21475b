"""Command that frees concurrency slots of the pool of model steps that dead runs still hold.

    python -m bettersynth_assets.free_slots             # slots of dead runs; each run also does this when it starts
    python -m bettersynth_assets.free_slots --run ID    # slots of one run in any state, for storages other than SQLite

Run it in the project's folder, or with ``DAGSTER_HOME`` set. GPUs need no such command: their leases are kernel locks,
which are released when the processes that hold them exit.
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
from bettersynth_assets.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring. Exit code 2: the run or the Dagster instance does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m bettersynth_assets.free_slots",
        description="Free concurrency slots of the pool of model steps that dead runs still hold.",
    )
    parser.add_argument("--run", metavar="ID", help="free the slots of this run, even if it seems to be alive")
    given = parser.parse_args(arguments)
    try:
        use_home()
        instance = dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        print(
            "error: DAGSTER_HOME is not set and this folder has no dagster.yaml; run this in the project's folder",
            file=sys.stderr,
        )
        return 2
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with instance:
        if given.run is None:
            freed = free_dead_runs(instance)
        elif instance.has_run(given.run):
            instance.event_log_storage.free_concurrency_slots_for_run(given.run)
            freed = [given.run]
        else:
            print(f"error: run {given.run!r} does not exist; `dagster run list` lists all runs", file=sys.stderr)
            return 2
    for run_id in freed:
        print(f"run {run_id}: freed its slots in the pool")
    if not freed:
        print("no dead run holds a slot in the pool")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
