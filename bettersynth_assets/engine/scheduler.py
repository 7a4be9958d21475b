"""Schedules stale shards onto a pool of workers, inputs first.

Stages without models and sets that are not sharded run in this process, each after its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bettersynth_assets.engine.job import PipelineJob, ShardTask
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.scheduler.back_ends import open_pool
from bettersynth_assets.scheduler.dispatcher import run_shards


@dataclass(frozen=True, kw_only=True)
class ShardScheduler:
    """Brings a stage's inputs up to date, and the stage's own shards if workers process them."""

    pipeline: Pipeline
    pooled: frozenset[str]
    """Sharded stages that workers process; all others run in this process."""
    job: PipelineJob
    attempt: Callable[[str, str], str | None]
    """Brings one shard up to date in this process; returns the reason of a failure, or None."""

    def prepare(self, name: str, shards: Sequence[str]) -> dict[str, str]:
        """Bring the inputs up to date, then the shards of ``name`` themselves if workers process them.

        Returns:
            The shards that failed or cannot be built, each with the reason.

        Raises:
            UserError: settings or the user's files are at fault; raised at once.
            GateError: an input fails a blocking check.
        """
        failed: dict[str, str] = {}
        for source in self.pipeline.sources(name):
            same_shard = self.pipeline.needed(name, shards[0], source) == [shards[0]]
            source_shards = shards if same_shard else self.pipeline.shards(source)
            failed_inputs = self.prepare(source, source_shards)
            if source not in self.pooled:
                pending = [source_shard for source_shard in source_shards if source_shard not in failed_inputs]
                reasons = {source_shard: self.attempt(source, source_shard) for source_shard in pending}
                failed_inputs |= {source_shard: reason for source_shard, reason in reasons.items() if reason}
            self.pipeline.admit(source)
            for source_shard, reason in failed_inputs.items():
                for shard in [source_shard] if same_shard else shards:
                    failed.setdefault(shard, f"{source} {source_shard} failed: {reason}")
        stale = [
            shard for shard in shards if shard not in failed and self.pipeline.up_to_date_shard(name, shard) is None
        ]
        if name in self.pooled and stale:
            with open_pool(self.job) as pool:
                failed |= run_shards(
                    pool,
                    name,
                    stale,
                    task_of=lambda shard: task_of(self.pipeline, name, shard),
                    on_result=self.pipeline.record,
                    log=self.pipeline.log,
                )
        return failed


def task_of(pipeline: Pipeline, name: str, shard: str) -> ShardTask:
    """Return a worker's task for one shard, whose inputs must be up to date in ``pipeline``."""
    inputs = [
        pipeline.up_to_date_shard(source, source_shard)
        for source in pipeline.sources(name)
        for source_shard in pipeline.needed(name, shard, source)
    ]
    return name, shard, [manifest for manifest in inputs if manifest is not None]
