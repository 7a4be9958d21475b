"""Parallel execution of independent plans, about one process per core or one per GPU. In: plans. Out: all processed.

A small model gains little from a second thread and slows down on a busy machine. It therefore always uses one thread,
and the other cores run other plans: on two cores, two trainings in parallel finish sooner than two in sequence. One
thread also makes the weights independent of the number of cores.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from itertools import takewhile
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from toolkit.worker_pools import naming_killed_workers

SMALL_MODEL = 20_000_000
"""Models with fewer parameters use one thread on the CPU."""

MASK = "CUDA_VISIBLE_DEVICES"

T = TypeVar("T")


def jobs_for(items: int, *, on_cpu: bool) -> int:
    """Return the number of processes on the CPU; 1 on a GPU or under a launcher.

    Usually one per core; a few more share the cores if fewer cores are idle then. Three trainings on two cores
    take 1.5 times as long as one if they run together, and twice as long if the third one waits.
    """
    if not on_cpu or "WORLD_SIZE" in os.environ or items < 1:
        return 1
    cores = len(os.sched_getaffinity(0))
    if items <= cores:
        return items
    return min(range(cores, min(items, 2 * cores - 1) + 1), key=lambda jobs: _duration(items, jobs, cores))


def _duration(items: int, jobs: int, cores: int) -> float:
    """Return how long equal items take, in units of one that has a core of its own."""
    rounds, rest = divmod(items, jobs)
    return rounds * max(1.0, jobs / cores) + (max(1.0, rest / cores) if rest else 0.0)


def run_all(task: Callable[[T], None], items: Sequence[T], jobs: int) -> None:
    """Run the task for every item; raise the first failure after the running items have finished.

    Args:
        task: a module-level function. It runs in a fork of this process, so no threads may have been started before.
        items: picklable arguments, one per call.
        jobs: number of processes; 1 runs the items in this process.
    """
    # Trainings collect garbage several times: 0.5 s each with the objects of the imported libraries, which stay anyway.
    gc.freeze()
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


def devices_for(items: int, *, on_cpu: bool) -> list[str]:
    """Return the GPUs on which items run side by side: those of ``CUDA_VISIBLE_DEVICES``, at most one per item.

    Returns:
        Nothing for the CPU, a single item or GPU, and under a launcher, which distributes one training over all GPUs.
    """
    if on_cpu or "WORLD_SIZE" in os.environ:
        return []
    names = list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, os.environ.get(MASK, "").split(","))))
    devices = names[:items]
    return devices if len(devices) > 1 else []


def run_on_devices(module: str, plans: Sequence[Path], devices: Sequence[str], *, stdout: int) -> int:
    """Run a command's plans in one process per GPU, each of which sees its GPU only; wait for all of them.

    Args:
        module: the command, for ``python -m``.
        plans: files of the plans; dealt to the GPUs in turn.
        devices: entries for ``CUDA_VISIBLE_DEVICES``.
        stdout: descriptor for the progress events.

    Returns:
        0, or the exit code of the first process that failed; the others are not interrupted.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, plans[at :: len(devices)])],
            env={**os.environ, MASK: device},
            stdout=stdout,
        )
        for at, device in enumerate(devices)
    ]
    codes = [process.wait() for process in processes]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def limit_threads(parameters: int, *, on_cpu: bool) -> None:
    """Limit torch to one thread for a small model on the CPU; stays in effect for the life of this process."""
    import torch

    if on_cpu and parameters < SMALL_MODEL:
        torch.set_num_threads(1)
