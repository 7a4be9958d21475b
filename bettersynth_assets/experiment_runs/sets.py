"""Training sets of an experiment's cells. In: cells. Out: one ``BuiltSet`` per different set, built or found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.engine.store import WHOLE, Manifest
from bettersynth_assets.errors import UserError
from bettersynth_assets.experiment_runs.cells import SetOf
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets.stages.training_plan import arm_digest

OnBuilt = Callable[[Manifest, ResolvedRun], None]


@dataclass(frozen=True, kw_only=True)
class BuiltSet:
    """A training set on disk.

    Args:
        run: the settings under which it was built, resolved.
        manifest: of the set.
        digest: of the training file and its images; equal for equal training data.
    """

    run: ResolvedRun
    manifest: Manifest
    digest: str


def ignore(manifest: Manifest, run: ResolvedRun) -> None:
    """No-op report of a set that was built."""


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Training sets by their settings; each is opened once.

    Args:
        leased: names of the stages that lease a device while they run.
        stages: of the graph.
        log: called with progress lines.
        on_built: called with each shard that is built, and its run.
    """

    leased: frozenset[str]
    stages: tuple[Stage, ...] = STAGES
    log: Callable[[str], None] = print
    on_built: OnBuilt = ignore
    _opened: dict[str, tuple[PipelineJob, Pipeline]] = field(default_factory=dict)
    _built: dict[str, BuiltSet] = field(default_factory=dict)

    def find(self, wanted: SetOf) -> BuiltSet | None:
        """Return a set if it is up to date; builds nothing."""
        if not wanted.settings.profile_root.is_dir():  # nothing was built, nor perhaps the world generated
            return None
        if (key := _key(wanted)) not in self._built:
            _, pipeline = self._open(wanted)
            manifest = pipeline.up_to_date_shard(wanted.stage)
            if manifest is None:
                return None
            self._built[key] = BuiltSet(run=pipeline.run, manifest=manifest, digest=arm_digest(manifest))
        return self._built[key]

    def build(self, wanted: Iterable[SetOf]) -> None:
        """Bring sets up to date.

        Raises:
            UserError: a set cannot be built; the message names it.
        """
        for one in wanted:
            if self.find(one) is None:
                job, pipeline = self._open(one)
                for prepare in {stage.prepare for stage in self.stages}:
                    prepare(pipeline.run)
                _ensure(job, pipeline, one.stage)

    def _open(self, wanted: SetOf) -> tuple[PipelineJob, Pipeline]:
        key = _key(wanted)
        if key not in self._opened:
            run = ResolvedRun(wanted.settings)
            job = PipelineJob(stages=self.stages, leased=self.leased, run=run)
            hooks = {"log": self.log, "on_materialized": lambda manifest: self.on_built(manifest, run)}
            self._opened[key] = job, job.pipeline(**hooks)
        return self._opened[key]


def _key(wanted: SetOf) -> str:
    return f"{wanted.settings.recipe.name} {wanted.settings.draw_seed} {wanted.stage}"


def _ensure(job: PipelineJob, pipeline: Pipeline, stage: str) -> None:
    def attempt(name: str, shard: str) -> str | None:
        pipeline.ensure(name, shard)
        return None

    scheduler = ShardScheduler(pipeline=pipeline, pooled=job.pooled, job=job, attempt=attempt)
    failed = scheduler.prepare(stage, [WHOLE])
    if failed:
        raise UserError(f"{pipeline.settings.recipe.name}: {stage} cannot be built: {failed[WHOLE]}")
    pipeline.ensure(stage)
