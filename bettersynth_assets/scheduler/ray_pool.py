"""Workers on a Ray cluster. In: a job. Out: actors, each with exclusive use of one GPU or one CPU.

Ray places the actors, assigns GPUs, reports dead actors, and transports all messages: a task is the argument of an
actor's method, and the method yields log lines and results. So this project opens no port, and the cluster's access
rules decide which processes may send to an actor (docs/scale.md).

Requirements: the step runs on a node of the cluster; all nodes have this package installed, and have the data root, the
seed's images and the models under the same paths.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.errors import ConfigError, DeviceError
from bettersynth_assets.scheduler.job import FINAL, Job, Message, Task, serve
from bettersynth_assets.scheduler.pool import Pool, Worker


class RayWorker(Worker):
    """An actor, and the stream of messages from its current task."""

    def __init__(self, index: int, actor: Any) -> None:
        super().__init__(index)
        self.actor = actor
        self.reason: str | None = None
        self.stream: Any = actor.process.options(num_returns="streaming").remote(None)
        """Messages that ``process`` yields; None while the actor has no task."""

    def send(self, task: Task) -> None:
        self.stream = self.actor.process.options(num_returns="streaming").remote(task)

    def message(self) -> Message | None:
        import ray

        try:
            message: Message = ray.get(next(self.stream))
        except StopIteration:
            self.reason = "it exited in the middle of its shard"
        except ray.exceptions.RayTaskError as error:
            self.reason = str(error).strip().splitlines()[-1]
        except ray.exceptions.RayError as error:
            self.reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        else:
            if message[0] in FINAL:
                self.stream = None
            return message
        return None

    def exit_reason(self, timeout: float) -> str | None:
        return self.reason

    def end(self) -> None:
        import ray

        ray.kill(self.actor)


class RayPool:
    """Starts the actors of one job on the connected cluster."""

    def __init__(self, job: Job) -> None:
        """Determine the number of places.

        Raises:
            DeviceError: the profile requests more workers than the cluster has GPUs.
        """
        import ray

        gpu, resources = job.gpu, ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self.with_gpu = bool(gpus) and gpu.devices != "cpu"
        self.size = gpu.workers if gpu.workers != "auto" else max(1, gpus if self.with_gpu else cpus)
        if self.with_gpu and self.size > gpus:
            raise DeviceError(
                f"gpu.workers = {self.size}, but the Ray cluster has {gpus} GPUs, and each worker holds one: set "
                "`workers: auto` in the profile's `gpu` section"
            )
        self.job = job.with_gpu(gpu.model_copy(update={"devices": "auto" if self.with_gpu else "cpu"}))

    def start(self, index: int) -> RayWorker:
        import ray

        options = {"num_cpus": 1, "num_gpus": int(self.with_gpu), "max_restarts": 0}
        return RayWorker(index, ray.remote(_Actor).options(**options).remote(self.job))

    def wait(self, workers: Sequence[RayWorker], seconds: float) -> Sequence[Worker]:
        import ray

        streams = [worker.stream for worker in workers if worker.stream is not None]
        if not streams:
            return []
        ray.wait(streams, num_returns=1, timeout=seconds)
        # The first call returns as soon as one stream is ready; the second one returns all that are.
        ready = ray.wait(streams, num_returns=len(streams), timeout=0)[0]
        return [worker for worker in workers if worker.stream in ready]


class _Actor:
    """Actor that runs one worker.

    All tasks run in one thread for the actor's lifetime, because state that is kept between tasks (such as process
    pools) may depend on the thread that created it. ``process`` yields the messages of this thread.
    """

    def __init__(self, job: Job) -> None:
        self.tasks: SimpleQueue[Task] = SimpleQueue()
        self.messages: SimpleQueue[Message | None] = SimpleQueue()
        threading.Thread(target=self._serve, args=(job,), daemon=True).start()

    def _serve(self, job: Job) -> None:
        try:
            serve(self.tasks.get, self.messages.put, job)
        finally:
            self.messages.put(None)

    def process(self, task: Task | None) -> Iterator[Message]:
        """Yield a task's messages up to one of a kind in ``FINAL``; without a task, those until the worker is ready."""
        if task is not None:
            self.tasks.put(task)
        while (message := self.messages.get()) is not None:
            yield message
            if message[0] in FINAL:
                return
        raise RuntimeError("the worker's thread ended; see its error in the actor's log")


@contextmanager
def ray_pool(job: Job) -> Iterator[Pool]:
    """Open a pool on a Ray cluster; its actors end with the context, or with the step.

    Raises:
        ConfigError: no cluster at the profile's address, or settings that Ray does not support.
        DeviceError: the profile requests more workers than the cluster has GPUs.
    """
    address = _check_settings(job.gpu)
    import ray

    joined = not ray.is_initialized()
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"gpu.ray_address = {address!r}: no Ray cluster responds at this address; start one, or "
            f"set `pool: local` ({error})"
        ) from error
    try:
        yield RayPool(job)
    finally:
        if joined:
            ray.shutdown()


def _check_settings(gpu: Gpu) -> str:
    """Check that Ray supports the profile's settings; return the cluster's address."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("gpu.pool = 'ray', but Ray is not installed: pip install '.[ray]'")
    if isinstance(gpu.devices, list):
        raise ConfigError(
            f"gpu.devices = {gpu.devices}, but under `pool: ray` Ray chooses GPUs: set `devices: auto` or `cpu`"
        )
    if gpu.ray_address.startswith("ray://"):
        raise ConfigError(
            f"gpu.ray_address = {gpu.ray_address!r}: a Ray client cannot stream an actor's messages, so the step "
            "runs on a node of the cluster itself: start it there, with `ray_address: auto`"
        )
    return gpu.ray_address
