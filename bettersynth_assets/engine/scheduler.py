"""What workers are given, and in what order. In: a set and its shards. Out: all that workers can make of it is made.

Stages without models and sets that are not sharded are made by this process, in their place between the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.scheduler.local_pool import local_pool
from bettersynth_assets.scheduler.workers import Job, Pool, work_shards


def open_pool(job: Job) -> AbstractContextManager[Pool]:
    """The pool that a job's profile asks for."""
    if job.settings.profile.gpu.pool == "ray":
        from bettersynth_assets.scheduler.ray_pool import ray_pool

        return ray_pool(job)
    return local_pool(job)


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Brings a stage's inputs, and where workers work the stage itself its shards, up to date."""

    pipeline: Pipeline
    pooled: frozenset[str]
    """Sharded stages that workers work; all others are this process's own."""
    job: Job
    attempt: Callable[[str, str], str | None]
    """Bring one shard up to date in this process; gives why it failed."""

    def prepare(self, name: str, shards: Sequence[str]) -> dict[str, str]:
        """Inputs first, then the shards of ``name`` themselves if workers work it.

        Returns:
            Why shards failed or cannot be made, by shard.

        Raises:
            UserError: at once; a set that fails a blocking rule among them.
        """
        failed: dict[str, str] = {}
        for source in self.pipeline.sources(name):
            together = self.pipeline.needed(name, shards[0], source) == [shards[0]]
            wanted = shards if together else self.pipeline.shards(source)
            broken = self.prepare(source, wanted)
            if source not in self.pooled:
                tried = {part: self.attempt(source, part) for part in wanted if part not in broken}
                broken |= {part: words for part, words in tried.items() if words}
            self.pipeline.admit(source)
            for part, words in broken.items():
                for shard in [part] if together else shards:
                    failed.setdefault(shard, f"{source} {part} failed: {words}")
        todo = [shard for shard in shards if shard not in failed and self.pipeline.found(name, shard) is None]
        if name in self.pooled and todo:
            with open_pool(self.job) as pool:
                failed |= work_shards(pool, self.pipeline, name, todo)
        return failed
