"""Distributes shards over a pool of workers. In: shards and a pool. Out: results as they arrive, and failures.

Each worker processes one shard at a time. If a worker dies, another worker processes its shard again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from bettersynth_assets.errors import UserError
from bettersynth_assets.scheduler.job import Log, Result, Task
from bettersynth_assets.scheduler.pool import Pool, Worker
from toolkit.progress import Pace

MAX_DEATHS = 2
"""Number of workers that may die on one shard before the shard fails. Also the number of workers per place that may die
before they receive a shard."""
SECONDS_BETWEEN_NOTICES = 30.0


class WorkerError(RuntimeError):
    """Workers keep dying before they receive a shard."""


def run_shards(
    pool: Pool,
    name: str,
    shards: Sequence[str],
    *,
    task_of: Callable[[str], Task],
    on_result: Callable[[Result], None],
    log: Log,
) -> dict[str, str]:
    """Process shards in the workers of a pool.

    Args:
        pool: the pool; used by this call only.
        name: name of the shards' set, for log lines and errors.
        shards: the shards to process.
        task_of: returns a worker's task for a shard; called when the worker is ready for it.
        on_result: called in this process with each result.
        log: called with log lines, also those of the workers.

    Returns:
        The failed shards, each with the reason; all other shards are done.

    Raises:
        UserError: a worker reported one. Raised at once, because settings and files are the same for every shard.
        WorkerError: workers keep dying before they receive a shard.
    """
    return Dispatcher(pool, name, shards, task_of=task_of, on_result=on_result, log=log).run()


class Dispatcher:
    """State of one call of ``run_shards``."""

    def __init__(
        self,
        pool: Pool,
        name: str,
        shards: Sequence[str],
        *,
        task_of: Callable[[str], Task],
        on_result: Callable[[Result], None],
        log: Log,
    ) -> None:
        self.pool, self.name, self.task_of, self.on_result, self.log = pool, name, task_of, on_result, log
        self.queue = deque(shards)
        self.deaths: Counter[str | None] = Counter()
        self.failed: dict[str, str] = {}
        self.results: deque[Result] = deque()
        """Results that have been received but not passed to ``on_result`` yet."""
        self.workers: list[Worker] = []
        self.notices = Pace(SECONDS_BETWEEN_NOTICES)

    def run(self) -> dict[str, str]:
        try:
            for index in range(min(self.pool.size, len(self.queue))):
                self.workers.append(self.pool.start(index))
            while self.queue or any(worker.shard for worker in self.workers):
                self._poll()
                # Reporting a result may take as long as a small shard, so assign the next shards first.
                if self.results:
                    self.on_result(self.results.popleft())
        finally:
            for worker in self.workers:
                worker.end()
            while self.results:
                self.on_result(self.results.popleft())
        return self.failed

    def _poll(self) -> None:
        """Handle one message of each worker that has one, and assign shards to idle workers."""
        workers_ready = self.pool.wait(self.workers, 0 if self.results else 1)
        for worker in list(self.workers):
            if worker in workers_ready:
                message = worker.message()
                if message is None:
                    self._reap(worker)
                else:
                    self._handle(worker, *message)
            if worker.is_ready and worker.shard is None and self.queue:
                worker.shard = self.queue.popleft()
                worker.send(self.task_of(worker.shard))
        if not any(worker.is_ready for worker in self.workers) and self.notices.due():
            self.log(f"{self.name}: no worker has started yet; waiting for {len(self.workers)} workers")

    def _handle(self, worker: Worker, kind: str, value: Any) -> None:
        shard = worker.shard or ""
        if kind == "log":
            self.log(value)
        elif kind == "result":
            self.results.append(value)
        elif kind == "ready":
            worker.is_ready = True
        elif kind == "refused":
            raise UserError(value)
        else:
            worker.shard = None
            if kind == "failed":
                self.failed[shard], details = value
                self.log(f"{self.name} {shard} failed; continuing with the other shards\n{details}")

    def _reap(self, worker: Worker) -> None:
        """Remove a dead worker, queue its shard again unless too many workers died on it, and start a new worker."""
        shard, reason = worker.shard, worker.exit_reason(1.0) or "it closed its connection"
        self.workers.remove(worker)
        worker.end()
        self.deaths[shard] += 1
        if shard is None and self.deaths[None] >= MAX_DEATHS * self.pool.size:
            raise WorkerError(
                f"{self.name}: workers exit before they receive a shard ({reason}); see their output above"
            )
        if shard is not None and self.deaths[shard] >= MAX_DEATHS:
            self.failed[shard] = f"{MAX_DEATHS} workers died while processing it, the last one: {reason}"
        elif shard is not None:
            self.queue.append(shard)
            self.log(f"{self.name} {shard}: its worker died ({reason}); another worker processes it again")
        if self.queue:
            self.workers.append(self.pool.start(worker.index))
