"""Worker processes on this machine. In: a job. Out: one process per GPU, or per share of the CPU cores.

    python -m bettersynth_assets.scheduler.local_pool FD    # started by the pool: a worker that uses connection FD

A worker sees one GPU (``CUDA_VISIBLE_DEVICES``) or none. The kernel kills it when the thread that started it ends, so
start workers from the thread that waits for them.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.errors import DeviceError
from bettersynth_assets.scheduler.job import Job, Message, Task, serve
from bettersynth_assets.scheduler.lease import MASK, chosen_devices, visible_devices
from bettersynth_assets.scheduler.pool import Pool, Worker
from bettersynth_assets.scheduler.process_lifetime import die_with_parent


class LocalWorker(Worker):
    """A process on this machine.

    Messages are pickled and sent over an anonymous pipe that only the worker and its parent can access.
    """

    def __init__(self, index: int, process: subprocess.Popen[bytes], connection: Connection) -> None:
        super().__init__(index)
        self.process, self.connection = process, connection

    def send(self, task: Task) -> None:
        with suppress(OSError):
            self.connection.send(task)

    def message(self) -> Message | None:
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def exit_reason(self, timeout: float) -> str | None:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(timeout)
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return None

    def end(self) -> None:
        self.process.kill()  # safe: files are written atomically
        self.process.wait()
        self.connection.close()


class LocalPool:
    """Starts the workers of one job."""

    def __init__(self, job: Job) -> None:
        """Determine the number of places.

        Raises:
            DeviceError: the profile requests more workers than there are GPUs.
        """
        gpu = job.gpu
        self.devices = chosen_devices(gpu, visible_devices())
        cores = len(os.sched_getaffinity(0))
        self.size = gpu.workers if gpu.workers != "auto" else len(self.devices) or cores
        if self.devices and self.size > len(self.devices):
            raise DeviceError(
                f"gpu.workers = {self.size}, but there are {len(self.devices)} GPUs, and each worker holds one: set "
                "`workers: auto` in the profile's `gpu` section"
            )
        self.threads = max(1, cores // self.size)
        devices = "auto" if self.devices else "cpu"  # numbered from 0 within the worker's mask
        self.job = pickle.dumps(job.with_gpu(gpu.model_copy(update={"devices": devices})))

    def start(self, index: int) -> LocalWorker:
        parent_end, child_end = Pipe()
        path = os.pathsep.join(filter(None, (str(PROJECT_ROOT), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}
        env[MASK] = self.devices[index] if self.devices else ""
        with child_end:
            process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(child_end.fileno())],
                env=env, stdin=subprocess.DEVNULL, pass_fds=[child_end.fileno()],
            )  # fmt: skip

        with suppress(OSError):  # if the worker has already died, `wait` reports it
            parent_end.send_bytes(self.job)
        return LocalWorker(index, process, parent_end)

    def wait(self, workers: Sequence[LocalWorker], seconds: float) -> Sequence[Worker]:
        ready = wait([worker.connection for worker in workers], timeout=seconds)
        # A child of a dead worker may keep the connection open, so check the process too.
        return [worker for worker in workers if worker.connection in ready or worker.exit_reason(0) is not None]


@contextmanager
def local_pool(job: Job) -> Iterator[Pool]:
    """Open a pool on this machine; ``run_shards`` ends its workers."""
    yield LocalPool(job)


def main() -> None:
    """Run a worker process."""
    die_with_parent()
    number = int(sys.argv[1])
    os.set_inheritable(number, False)  # if a child kept it open, the parent would not see this worker's exit
    with Connection(number) as connection:
        serve(connection.recv, connection.send, pickle.loads(connection.recv_bytes()))


if __name__ == "__main__":
    main()
