"""A pipeline as a job for workers. In: stages and a resolved run. Out: a picklable job that brings shards up to date.

A worker processes a shard exactly as the parent would, under a lease of its device, and sends log lines and manifests
back. The rows do not depend on the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Log, Result, Stage, Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.scheduler.lease import chosen_devices, lease, visible_devices
from toolkit.registry import load_extensions

ShardTask = tuple[str, str, Sequence[Manifest]]
"""Stage, shard, and the manifests of the shard's inputs."""


@dataclass(frozen=True, kw_only=True)
class PipelineJob:
    """Implementation of ``scheduler.job.Job`` whose results are manifests."""

    stages: tuple[Stage, ...]
    leased: frozenset[str]
    """Stages that lease a device while they run."""
    run: ResolvedRun

    @property
    def gpu(self) -> Gpu:
        return self.run.gpu

    @property
    def pooled(self) -> frozenset[str]:
        """Stages whose shards workers process; none if the profile configures no workers."""
        if self.gpu.workers == 1 and self.gpu.pool == "local":
            return frozenset()
        return frozenset(stage.name for stage in self.stages if stage.sharded and stage.name in self.leased)

    def with_gpu(self, gpu: Gpu) -> Self:
        return replace(self, run=self.run.with_gpu(gpu))

    def pipeline(self, **hooks: Any) -> Pipeline:
        """Create the pipeline; ``hooks`` are keyword arguments of ``Pipeline``."""
        load_extensions(self.run.settings.profile.extension_files())  # a worker has not loaded the profile
        stages = [leasing(stage) if stage.name in self.leased else stage for stage in self.stages]
        return Pipeline(stages, self.run, **hooks)

    def processor(self, log: Log, on_result: Callable[[Manifest], None]) -> Callable[[ShardTask], None]:
        """Return the function that brings one shard up to date in a worker."""
        pipeline = self.pipeline(log=log, on_materialized=on_result)

        def process(task: ShardTask) -> None:
            name, shard, inputs = task
            for manifest in inputs:  # verified by the parent; repeating that would dominate with many shards
                pipeline.trust(manifest)
            pipeline.ensure(name, shard)

        return process


def leasing(stage: Stage) -> Stage:
    """Return a copy of a stage that leases its GPUs while it runs."""

    def run(work: Work) -> Result:
        with under_lease(work.run, work.log) as leased:
            return stage.run(replace(work, run=leased))

    return replace(stage, run=run)


@contextmanager
def under_lease(run: ResolvedRun, log: Log) -> Iterator[ResolvedRun]:
    """Hold the GPUs of a run; yield the run as it is to be used meanwhile."""
    devices = chosen_devices(run.gpu, visible_devices())
    with lease(devices, log):
        # Within the lease's mask, devices are numbered from 0.
        sizes_file = run.gpu.batch_sizes or str(run.settings.profile_root / "batch_sizes.json")
        leased_devices = "auto" if devices else "cpu"
        yield run.with_gpu(run.gpu.model_copy(update={"devices": leased_devices, "batch_sizes": sizes_file}))
