"""Recovery from killed worker processes. In: a call that uses a pool. Out: its value, or an error with the cause.

A pool of ``concurrent.futures`` is broken once one of its processes has been killed. Its owner must replace the pool
before the call can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

MOST_ATTEMPTS = 3
T = TypeVar("T")


class WorkerKilledError(RuntimeError):
    """Worker processes were killed; the message names the task and the likely cause."""

    def __init__(self, what: str, times: int = 1) -> None:
        how_often = "a worker process was killed" if times == 1 else f"worker processes were killed {times} times"
        super().__init__(
            f"{what}: {how_often}, most likely because the machine ran out of memory (see `dmesg`): free some "
            "memory or use fewer processes, and run again"
        )


@contextmanager
def naming_killed_workers(what: str) -> Iterator[None]:
    """Convert ``BrokenProcessPool`` to an error that a user can act on."""
    try:
        yield
    except BrokenProcessPool:
        raise WorkerKilledError(what) from None


def repeated(work: Callable[[], T], replace_pool: Callable[[], None], what: str) -> T:
    """Call a function that uses a long-lived pool; if a worker is killed, replace the pool and call it again.

    Args:
        work: uses the pool; must be safe to repeat.
        replace_pool: discards the broken pool.
        what: description of the task, for the error.

    Raises:
        WorkerKilledError: workers were killed ``MOST_ATTEMPTS`` times.
    """
    for _ in range(MOST_ATTEMPTS):
        try:
            return work()
        except BrokenProcessPool:
            replace_pool()
    raise WorkerKilledError(what, MOST_ATTEMPTS)
