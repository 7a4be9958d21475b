"""Several independent plans at once on the cores of one machine. In: a task and its items. Out: all of them done.

A small model gains little from a second core and loses much on a busy machine, so it always gets one, and the cores go
to its siblings: on two cores, two trainings side by side end sooner than one after the other. It also makes the weights
independent of the number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TypeVar

from toolkit.worker_pools import naming_killed_workers

SMALL_MODEL = 20_000_000
"""Parameters under which a model works on one core."""

T = TypeVar("T")


def jobs_for(items: int, *, on_cpu: bool) -> int:
    """Processes to use: one per item and core on the CPU, one on a GPU or under a launcher of several processes."""
    if not on_cpu or "WORLD_SIZE" in os.environ:
        return 1
    return max(1, min(items, len(os.sched_getaffinity(0))))


def run_all(task: Callable[[T], None], items: Sequence[T], jobs: int) -> None:
    """Do the task for every item; the first failure is raised when the items already begun have ended.

    Args:
        task: a function of a module. It runs in a fork of this process, so nothing may have started threads before.
        items: what it is called with; picklable.
        jobs: processes; 1 means this one.
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
    """Give a small model on the CPU one thread, in this process and for good."""
    import torch

    if on_cpu and parameters < SMALL_MODEL:
        torch.set_num_threads(1)
