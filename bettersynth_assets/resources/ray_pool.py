"""Workers on a Ray cluster. In: a profile's ``gpu`` section. Out: actors, each with one GPU, or one CPU, of its own.

The step runs on a node of the cluster. Actors call it back over TCP, so that a shard goes to them and manifests and
lines come from them as they do locally; Ray places them, gives each its GPU and says when one has died. All nodes have
this package installed, and see the data root, the seed's images and the models under the same paths.
"""

from __future__ import annotations

import importlib.util
import logging
import pickle
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.errors import ConfigError, DeviceError
from bettersynth_assets.resources.workers import Job, Pool, Worker, serve

CALLERS = 64
"""Actors that may call at the same moment."""


class RayPool:
    """Starts the actors of one job on the cluster that this process is connected to."""

    def __init__(self, job: Job, listener: Listener, key: bytes) -> None:
        import ray

        gpu, there = job.settings.profile.gpu, ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
        self.with_gpu = bool(gpus) and gpu.devices != "cpu"
        self.size = gpu.workers if gpu.workers != "auto" else max(1, gpus if self.with_gpu else cpus)
        if self.with_gpu and self.size > gpus:
            raise DeviceError(
                f"gpu.workers = {self.size}, but the Ray cluster has {gpus} GPUs, and each worker holds one: set "
                "`workers: auto` in the profile's `gpu` section"
            )
        inside = gpu.model_copy(update={"devices": "auto" if self.with_gpu else "cpu"})
        profile = job.settings.profile.model_copy(update={"gpu": inside})
        self.job = pickle.dumps(replace(job, settings=replace(job.settings, profile=profile)))
        self.listener, self.key = listener, key
        self.started: dict[int, Worker] = {}
        self.is_open = True
        self.answering = threading.Thread(target=self._answer, daemon=True)
        self.answering.start()

    def close(self) -> None:
        """Take no more calls."""
        self.is_open = False
        Client(self.listener.address, authkey=self.key).close()  # ends the wait for the next call
        self.answering.join()

    def start(self, place: int) -> Worker:
        import ray

        number = len(self.started)
        needs = {"num_cpus": 1, "num_gpus": int(self.with_gpu), "max_restarts": 0}
        actor: Any = ray.remote(_Actor).options(**needs).remote()
        serving = actor.serve.remote(self.listener.address, self.key, number, self.job)

        def fate(seconds: float) -> str | None:
            if not ray.wait([serving], timeout=seconds)[0]:
                return None
            try:
                ray.get(serving)
            except ray.exceptions.RayTaskError as error:
                return str(error).strip().splitlines()[-1]
            except ray.exceptions.RayError as error:
                return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return "it ended"

        def end() -> None:
            ray.kill(actor)
            if worker.connection is not None:
                worker.connection.close()

        self.started[number] = worker = Worker(place=place, fate=fate, end=end)
        return worker

    def _answer(self) -> None:
        """Take the calls of actors."""
        while self.is_open:
            # Who calls may be no actor of ours, or die while it calls.
            with suppress(AuthenticationError, EOFError, ConnectionError):
                connection = self.listener.accept()
                self.started[connection.recv()].connection = connection


class _Actor:
    """One worker, in the process that Ray gave it."""

    def serve(self, address: Any, key: bytes, number: int, job: bytes) -> None:
        connection = Client(address, authkey=key)
        assert isinstance(connection, Connection)
        with connection:
            connection.send(number)
            serve(connection, pickle.loads(job))


@contextmanager
def ray_pool(job: Job) -> Iterator[Pool]:
    """The pool of a Ray cluster; what the step started there ends with the block, or with the step.

    Raises:
        ConfigError: no cluster at the profile's address, or settings that a cluster cannot follow.
        DeviceError: more workers than GPUs.
    """
    address = _checked(job.settings.profile.gpu)
    import ray

    joined = not ray.is_initialized()
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"gpu.ray_address = {address!r}: no Ray cluster answers there ({error})") from error
    key = secrets.token_bytes(32)
    try:
        with Listener((ray.util.get_node_ip_address(), 0), backlog=CALLERS, authkey=key) as listener:
            pool = RayPool(job, listener, key)
            try:
                yield pool
            finally:
                pool.close()
    finally:
        if joined:
            ray.shutdown()


def _checked(gpu: Gpu) -> str:
    """The cluster's address, if all that the profile asks for can be had of a cluster."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("gpu.pool = 'ray', but Ray is not installed: pip install '.[ray]'")
    if isinstance(gpu.devices, list):
        raise ConfigError(
            f"gpu.devices = {gpu.devices}, but under `pool: ray` Ray chooses GPUs: set `devices: auto` or `cpu`"
        )
    if gpu.ray_address.startswith("ray://"):
        raise ConfigError(
            f"gpu.ray_address = {gpu.ray_address!r}: workers call the step back, so it runs on a node of the cluster "
            "itself: start it there, with `ray_address: auto`"
        )
    return gpu.ray_address
