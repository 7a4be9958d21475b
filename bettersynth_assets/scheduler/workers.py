"""Brings a stage's shards up to date in several processes. In: shards and a pool. Out: manifests as they are written.

The parent gives each worker one shard at a time. A worker brings it up to date as the parent would, under a lease of
its own device, and sends log lines and manifests back; the rows are the same in whichever process they are made. A
worker that dies loses its shard only, which another one redoes. A ``Pool`` starts workers and carries messages:
``local_pool`` over anonymous pipes, ``ray_pool`` over Ray. Neither opens a port. Nothing here knows Dagster.
"""

from __future__ import annotations

import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import UserError
from bettersynth_assets.scheduler.lease import leasing
from toolkit.file_errors import EnvironmentFault
from toolkit.registry import load_extensions

MOST_DEATHS = 2
"""Workers that one shard may end before it counts as failed, and workers per place that may end before their first."""
SECONDS_BETWEEN_WORDS = 30.0


class WorkerError(RuntimeError):
    """Workers that end before they take a shard."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is told once; it is pickled, so stages are made of functions of modules."""

    stages: tuple[Stage, ...]
    leased: frozenset[str]
    """Stages that hold a device while they run."""
    settings: Settings

    def pipeline(self, **hooks: Any) -> Pipeline:
        load_extensions(self.settings.profile.extension_files())  # a worker has read no profile
        stages = [leasing(stage) if stage.name in self.leased else stage for stage in self.stages]
        return Pipeline(stages, self.settings, **hooks)


Task = tuple[str, str, Sequence[Manifest]]
"""Stage, shard, and the manifests of the shard's inputs."""
Message = tuple[str, Any]
"""Its kind (``log``, ``made`` or one of ``LAST``) and its value."""
LAST = frozenset({"ready", "done", "failed", "refused"})
"""Kinds of message after which a worker waits for the next shard."""


def serve(receive: Callable[[], Task], send_message: Callable[[Message], None], job: Job) -> None:
    """Run a worker: bring the received shards up to date, until ``receive`` raises EOFError or OSError."""
    lock = threading.Lock()

    def send(kind: str, value: object = None) -> None:
        with lock:  # a stage may log from its threads
            send_message((kind, value))

    pipeline = job.pipeline(log=lambda text: send("log", text), on_made=lambda manifest: send("made", manifest))
    send("ready")
    while True:
        try:
            name, shard, inputs = receive()
        except (EOFError, OSError):
            return
        for manifest in inputs:  # the parent has looked; with many shards looking again would take longer than working
            pipeline.trust(manifest)
        try:
            pipeline.ensure(name, shard)
            send("done")
        except UserError as error:
            send("refused", str(error))
        except EnvironmentFault as fault:
            send("failed", (str(fault), str(fault)))
        except Exception as error:  # noqa: BLE001 (it is the parent's to tell; the next shard may be well)
            send("failed", (f"{type(error).__name__}: {error}", traceback.format_exc()))


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

    def give(self, name: str, shard: str, inputs: Sequence[Manifest]) -> None:
        self.shard = shard
        self.send((name, shard, inputs))

    @abstractmethod
    def send(self, task: Task) -> None:
        """Hand over a shard; a worker that has died shows at the next look."""

    @abstractmethod
    def message(self) -> Message | None:
        """The next message of a worker that ``Pool.wait`` returned; None where it has ended."""

    @abstractmethod
    def fate(self, seconds: float) -> str | None:
        """How it ended; None where it still lives after these seconds."""

    @abstractmethod
    def end(self) -> None:
        """End it at once; called once, dead or alive."""


class Pool(Protocol):
    """Where workers run."""

    size: int
    """Most workers at a time."""

    def start(self, place: int) -> Worker:
        """Start a worker; it need not be ready, or even placed, when this returns."""

    def wait(self, workers: Sequence[Any], seconds: float) -> Sequence[Worker]:
        """Wait until some of the pool's workers have a message or have ended; returns these."""


def work_shards(pool: Pool, pipeline: Pipeline, name: str, shards: Sequence[str]) -> dict[str, str]:
    """Have workers bring shards up to date, and tell the pipeline of what they made.

    Args:
        pool: used for this call only.
        pipeline: the parent's; the shards' inputs are up to date in it.
        name: of the stage.
        shards: those that are not up to date.

    Returns:
        Why shards failed, by shard; the others are done.

    Raises:
        UserError: at once, when a worker meets one: settings and files are the same for every shard.
        WorkerError: no worker comes as far as its first shard.
    """
    return _Shift(pool, pipeline, name, shards).run()


class _Shift:
    """One call of ``work_shards``."""

    def __init__(self, pool: Pool, pipeline: Pipeline, name: str, shards: Sequence[str]) -> None:
        self.pool, self.pipeline, self.name = pool, pipeline, name
        self.queue = deque(shards)
        self.deaths: Counter[str | None] = Counter()
        self.failed: dict[str, str] = {}
        self.untold: deque[Manifest] = deque()
        self.workers: list[Worker] = []
        self.next_word = time.monotonic() + SECONDS_BETWEEN_WORDS

    def run(self) -> dict[str, str]:
        try:
            for place in range(min(self.pool.size, len(self.queue))):
                self.workers.append(self.pool.start(place))
            while self.queue or any(worker.shard for worker in self.workers):
                self._listen()
                # Telling may take as long as a small shard: workers get their next one first.
                if self.untold:
                    self.pipeline.take(self.untold.popleft())
        finally:
            for worker in self.workers:
                worker.end()
            while self.untold:
                self.pipeline.take(self.untold.popleft())
        return self.failed

    def _listen(self) -> None:
        heard = self.pool.wait(self.workers, 0 if self.untold else 1)
        for worker in list(self.workers):
            if worker in heard:
                message = worker.message()
                if message is None:
                    self._bury(worker)
                else:
                    self._hear(worker, *message)
            if worker.is_ready and worker.shard is None and self.queue:
                shard = self.queue.popleft()
                worker.give(self.name, shard, self._inputs(shard))
        if time.monotonic() > self.next_word and not any(worker.is_ready for worker in self.workers):
            self.next_word += SECONDS_BETWEEN_WORDS
            self.pipeline.log(f"{self.name}: no worker has started yet; waiting for one of {len(self.workers)}")

    def _inputs(self, shard: str) -> list[Manifest]:
        parts = [
            self.pipeline.found(source, part)
            for source in self.pipeline.sources(self.name)
            for part in self.pipeline.needed(self.name, shard, source)
        ]
        return [manifest for manifest in parts if manifest is not None]

    def _hear(self, worker: Worker, kind: str, value: Any) -> None:
        shard = worker.shard or ""
        if kind == "log":
            self.pipeline.log(value)
        elif kind == "made":
            self.untold.append(value)
        elif kind == "ready":
            worker.is_ready = True
        elif kind == "refused":
            raise UserError(value)
        else:
            worker.shard = None
            if kind == "failed":
                self.failed[shard], details = value
                self.pipeline.log(f"{self.name} {shard} failed; going on with the other shards\n{details}")

    def _bury(self, worker: Worker) -> None:
        """Put a dead worker's shard back, unless it has ended too many, and another worker in its place."""
        shard, fate = worker.shard, worker.fate(1.0) or "it closed its connection"
        self.workers.remove(worker)
        worker.end()
        self.deaths[shard] += 1
        if shard is None and self.deaths[None] >= MOST_DEATHS * self.pool.size:
            raise WorkerError(f"{self.name}: workers end before they take a shard ({fate}); see their last words above")
        if shard is not None and self.deaths[shard] >= MOST_DEATHS:
            self.failed[shard] = f"{MOST_DEATHS} workers ended while they worked on it, the last one: {fate}"
        elif shard is not None:
            self.queue.append(shard)
            self.pipeline.log(f"{self.name} {shard}: its worker ended ({fate}); another one redoes it")
        if self.queue:
            self.workers.append(self.pool.start(worker.place))
