"""The protocol and main loop of workers. In: a picklable job and its tasks. Out: log lines and results, as messages.

A job is sent to each worker once. The worker creates one function from it that processes all tasks, so that models and
other state are loaded once per worker.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol, Self

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.errors import UserError
from toolkit.file_errors import EnvironmentFault

Log = Callable[[str], None]
Task = Any
"""A picklable value that the job's function understands."""
Result = Any
"""A picklable value that the job's function sends to the parent."""
Message = tuple[str, Any]
"""Kind (``log``, ``result`` or a kind in ``FINAL``) and value."""
FINAL = frozenset({"ready", "done", "failed", "refused"})
"""Message kinds after which a worker waits for the next task."""


class Job(Protocol):
    """Work that a pool distributes. It is pickled, so it may only hold values and module-level functions."""

    @property
    def gpu(self) -> Gpu:
        """Devices and number of workers."""

    def with_gpu(self, gpu: Gpu) -> Self:
        """Return a copy of the job with the devices that a worker sees."""

    def processor(self, log: Log, on_result: Callable[[Result], None]) -> Callable[[Task], None]:
        """Return the function that processes one task; called once in each worker.

        Args:
            log: sends a line to the parent.
            on_result: sends a result to the parent as soon as it exists.
        """


def serve(receive: Callable[[], Task], send_message: Callable[[Message], None], job: Job) -> None:
    """Run a worker: process the received tasks until ``receive`` raises EOFError or OSError."""
    lock = threading.Lock()

    def send(kind: str, value: object = None) -> None:
        with lock:  # a task may log from several threads
            send_message((kind, value))

    process = job.processor(lambda text: send("log", text), lambda result: send("result", result))
    send("ready")
    while True:
        try:
            task = receive()
        except (EOFError, OSError):
            return
        try:
            process(task)
            send("done")
        except UserError as error:
            send("refused", str(error))
        except EnvironmentFault as fault:
            send("failed", (str(fault), str(fault)))
        except Exception as error:  # noqa: BLE001 (the parent reports it; the next task may succeed)
            send("failed", (f"{type(error).__name__}: {error}", traceback.format_exc()))
