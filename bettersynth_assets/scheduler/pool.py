"""Interface of worker pools, which both back ends implement.

A back end starts workers and transports messages: ``local_pool`` over anonymous pipes, ``ray_pool`` over Ray. Neither
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
        index: number of the worker's device or share of the cores, from 0 to ``Pool.size`` - 1.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_ready = False
        self.shard: str | None = None
        """The shard that the worker is processing."""

    @abstractmethod
    def send(self, task: Task) -> None:
        """Send a task. Does not raise if the worker has died; ``Pool.wait`` reports that."""

    @abstractmethod
    def message(self) -> Message | None:
        """Return the next message of a worker that ``Pool.wait`` returned; None if the worker has exited."""

    @abstractmethod
    def exit_reason(self, timeout: float) -> str | None:
        """Wait up to ``timeout`` seconds; return the exit reason, or None if the worker is still alive."""

    @abstractmethod
    def end(self) -> None:
        """Kill the worker and release its resources; called once, even if it has exited."""


class Pool(Protocol):
    """A fixed number of places for workers."""

    size: int
    """Maximum number of workers at a time."""

    def start(self, index: int) -> Worker:
        """Start a worker; may return before the worker is scheduled or ready."""

    def wait(self, workers: Sequence[Any], seconds: float) -> Sequence[Worker]:
        """Wait until workers have a message or have exited, at most ``seconds``; return these workers."""
