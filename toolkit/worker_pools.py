"""Killed worker processes. In: work for a process pool. Out: the work's value, or an error that names the likely cause.

A pool of ``concurrent.futures`` is of no use once one of its processes was killed: whatever keeps a pool must replace
it, and only then can the work be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

MOST_ATTEMPTS = 3
T = TypeVar("T")


class WorkerKilledError(RuntimeError):
    """Worker processes were killed; says while they did what."""

    def __init__(self, what: str, times: int = 1) -> None:
        how_often = "a worker process was killed" if times == 1 else f"worker processes were killed {times} times"
        super().__init__(
            f"{what}: {how_often}, most likely because the machine ran out of memory (see `dmesg`): free some "
            "memory or use fewer processes, and run again"
        )


@contextmanager
def naming_killed_workers(what: str) -> Iterator[None]:
    """Replace ``BrokenProcessPool`` by an error that a user can act on."""
    try:
        yield
    except BrokenProcessPool:
        raise WorkerKilledError(what) from None


def repeated(work: Callable[[], T], replace_pool: Callable[[], None], what: str) -> T:
    """Do work on a pool that is kept, and repeat it on a new pool when a worker was killed.

    Args:
        work: uses the pool; called again from its beginning.
        replace_pool: forgets the broken pool.
        what: for the error.

    Raises:
        WorkerKilledError: workers were killed ``MOST_ATTEMPTS`` times.
    """
    for _ in range(MOST_ATTEMPTS):
        try:
            return work()
        except BrokenProcessPool:
            replace_pool()
    raise WorkerKilledError(what, MOST_ATTEMPTS)
