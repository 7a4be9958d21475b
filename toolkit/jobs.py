"""Parallel execution of independent plans, one process per core. In: a task and its items. Out: every item processed.

A small model gains little from a second thread and slows down on a busy machine. It therefore always uses one thread,
and the other cores run other plans: on two cores, two trainings in parallel finish sooner than two in sequence. One
thread also makes the weights independent of the number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TypeVar

from toolkit.worker_pools import naming_killed_workers

SMALL_MODEL = 20_000_000
"""Models with fewer parameters use one thread on the CPU."""

T = TypeVar("T")


def jobs_for(items: int, *, on_cpu: bool) -> int:
    """Return the number of processes: at most one per item and per core on the CPU; 1 on a GPU or under a launcher."""
    if not on_cpu or "WORLD_SIZE" in os.environ:
        return 1
    return max(1, min(items, len(os.sched_getaffinity(0))))


def run_all(task: Callable[[T], None], items: Sequence[T], jobs: int) -> None:
    """Run the task for every item; raise the first failure after the running items have finished.

    Args:
        task: a module-level function. It runs in a fork of this process, so no threads may have been started before.
        items: picklable arguments, one per call.
        jobs: number of processes; 1 runs the items in this process.
    """
    if jobs == 1:
        for item in items:
            task(item)
        return
    what = f"{getattr(task, '__qualname__', task)} of {len(items)} plans"
    with naming_killed_workers(what), ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        futures = [pool.submit(task, item) for item in items]
        done, open_ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in open_:
            future.cancel()
        for future in futures:
            if future in done:
                future.result()


def limit_threads(parameters: int, *, on_cpu: bool) -> None:
    """Limit torch to one thread for a small model on the CPU; stays in effect for the life of this process."""
    import torch

    if on_cpu and parameters < SMALL_MODEL:
        torch.set_num_threads(1)
