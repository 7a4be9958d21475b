"""The interface of a pool of workers, which both back ends implement.

A back end starts workers and carries messages: ``local_pool`` over anonymous pipes, ``ray_pool`` over Ray. Neither
opens a port.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from bettersynth_assets.scheduler.job import Message, Task


class Worker(ABC):
    """The parent's end of a worker.

    Args:
        place: which device, or share of the cores, it has: 0 ... ``Pool.size`` - 1.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        self.is_ready = False
        self.shard: str | None = None
        """The shard that it has been given and not finished."""

    @abstractmethod
    def send(self, task: Task) -> None:
        """Hand over a task; that a worker has died shows only in ``Pool.wait``."""

    @abstractmethod
    def message(self) -> Message | None:
        """The next message of a worker that ``Pool.wait`` returned; None where it has exited."""

    @abstractmethod
    def exit_reason(self, timeout: float) -> str | None:
        """Wait up to ``timeout`` seconds; return the exit reason, or None if the worker is still alive."""

    @abstractmethod
    def end(self) -> None:
        """Kill it; called once, dead or alive."""


class Pool(Protocol):
    """Where workers run."""

    size: int
    """Maximum number of workers at a time."""

    def start(self, place: int) -> Worker:
        """Start a worker; it need not be ready, or even placed, when this returns."""

    def wait(self, workers: Sequence[Any], seconds: float) -> Sequence[Worker]:
        """Wait until some of the pool's workers have a message or have exited; return these."""
