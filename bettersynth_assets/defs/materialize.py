"""Body of every asset. In: partition keys. Out: materializations, metadata and check results.

Runs a stage's shards through the pipeline, reports them to Dagster, and turns expected errors into one-line failures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from bettersynth_assets.config.settings import Scope, Settings, check_data_root
from bettersynth_assets.defs.cards import Card
from bettersynth_assets.defs.recipe_assets import RecipeAssets, recipes_of
from bettersynth_assets.defs.recipe_gate import require_checked_recipes
from bettersynth_assets.defs.resources.gpu import SectionResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.defs.run_inputs import refuse_changed_inputs
from bettersynth_assets.defs.run_tags import seed_file_of, tag_run
from bettersynth_assets.engine.gate import judge
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Verdict
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.engine.store import WHOLE, Manifest
from bettersynth_assets.errors import UserError
from bettersynth_assets.reports.metadata import Metadata, describe
from bettersynth_assets.reports.summary import write_summary
from toolkit.file_errors import EnvironmentFault
from toolkit.process import ChildFailedError
from toolkit.progress import Progress


@dataclass(frozen=True, kw_only=True)
class AssetPlan:
    """What every asset's body knows: the whole graph, all recipes, and the recipe that the asset belongs to."""

    stages: tuple[Stage, ...]
    cards: tuple[Card, ...]
    recipes: tuple[RecipeAssets, ...]
    own: RecipeAssets
    """The asset's recipe. For a set that recipes share, one of them."""


class StepRun:
    """The pipeline of one step of a Dagster run, and what it has reported to Dagster so far."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        name: str,
        plan: AssetPlan,
        settings: RunSettings,
        gpu: SectionResource,
    ) -> None:
        self.context, self.name, self.assets = context, name, plan.own
        models = frozenset(card.name for card in plan.cards if card.uses_models)
        run = ResolvedRun(gpu.apply(settings.load(plan.own.recipe)))
        recipes = recipes_of(_keys(context), plan.recipes, plan.stages)
        tag_run(context, run.settings.profile, recipes)
        is_shared = next(stage.scope != "recipe" for stage in plan.stages if stage.name == name)
        require_checked_recipes(context, run, recipes, is_shared=is_shared)
        self.job = PipelineJob(stages=plan.stages, leased=models, run=run)
        check_data_root(run.settings.data_root)
        prepare_inputs(name, plan.stages, _selected(context), run)
        self.pipeline = self.job.pipeline(
            log=context.log.info, on_materialized=self.materialized, on_judged=self.judged
        )
        check_side_inputs(self.pipeline, name, _selected(context))
        self.refuse_changed_inputs()
        self.reported: set[str] = set()
        """Shards of this asset that were reported to Dagster."""
        self.progress: Progress | None = None

    def refuse_changed_inputs(self) -> None:
        """Fail if the seed or questions file has changed since the run first read it."""
        refuse_changed_inputs(self.context, self.pipeline)

    def begin(self, shards: Sequence[str]) -> None:
        """Check the data root and start the progress log for the shards that are not up to date."""
        todo = [shard for shard in shards if self.pipeline.up_to_date_shard(self.name, shard) is None]
        check_data_root(self.job.run.settings.data_root, writing=bool(todo))
        total = len(todo)
        self.progress = Progress(self.context.log.info, self.name, total, unit="shards", logs_end=total > 1)

    def prepare(self, shards: Sequence[str]) -> dict[str, str]:
        """Bring the inputs of shards up to date, and the shards themselves if the profile configures workers.

        Returns:
            The failed shards, each with the reason. This process must build the other shards that are still stale.

        Raises:
            UserError: settings or the user's files are at fault, or an input fails a blocking check; raised at once.
        """
        job = self.job
        scheduler = ShardScheduler(pipeline=self.pipeline, pooled=job.pooled, job=job, attempt=self.attempt)
        return scheduler.prepare(self.name, shards)

    def attempt(self, name: str, shard: str) -> str | None:
        """Bring one shard up to date in this process.

        Returns:
            The reason of a failure, or None. The log has the traceback, except for a fault of the environment.

        Raises:
            UserError: raised at once, because settings and files are the same for every shard.
        """
        try:
            self.pipeline.ensure(name, shard)
        except (UserError, dg.Failure):
            raise
        except EnvironmentFault as fault:
            self.context.log.error(f"{name} {shard} failed; continuing with the other shards: {fault}")
            return str(fault)
        except Exception as error:
            self.context.log.exception(f"{name} {shard} failed; continuing with the other shards")
            return f"{type(error).__name__}: {error}"
        return None

    def materialized(self, manifest: Manifest) -> None:
        """Report a shard that this process or a worker has just built."""
        self.report(manifest)
        if self.progress is not None and manifest.stage == self.name:
            self.progress.add(1, rows=manifest.rows_in)

    def report(self, manifest: Manifest) -> None:
        """Report a shard to Dagster; a shard that was built as a dependency is reported under its own asset."""
        metadata = self.metadata(manifest)
        if manifest.stage != self.name:
            self.context.log.info(
                f"{manifest.stage} {manifest.shard} was missing or stale and has been built as a dependency"
            )
            self.log_materialization(manifest, metadata)
        elif manifest.shard != WHOLE:
            self.log_materialization(manifest, metadata)
            # Dagster logs another materialization at the end of the step, which would have no metadata without this.
            self.context.add_asset_metadata(metadata, partition_key=manifest.shard)
            self.reported.add(manifest.shard)

    def log_materialization(self, manifest: Manifest, metadata: Metadata) -> None:
        """Log a shard's materialization now, so that Dagster records it even if this run fails later."""
        if manifest.lost and self.pipeline.stages[manifest.stage].columns is not None:
            raise dg.Failure(
                f"{manifest.stage} {manifest.shard}: {manifest.lost} rows are in no table, which is a bug of this stage"
            )
        partition = None if manifest.shard == WHOLE else manifest.shard
        key = self.key(manifest.stage)
        self.context.log_event(dg.AssetMaterialization(key, metadata=metadata, partition=partition))

    def key(self, name: str) -> dg.AssetKey:
        """Return the asset of one of the recipe's sets."""
        return self.assets.key(self.pipeline.stages[name])

    def metadata(self, manifest: Manifest) -> Metadata:
        stage, run = self.pipeline.stages[manifest.stage], self.job.run
        return identity(stage.scope, run.settings) | describe(manifest, run, rows=stage.columns is not None)

    def judged(self, name: str, verdicts: dict[str, Verdict]) -> None:
        """Report the verdicts on an input set to Dagster if the set was built as a dependency or failed a check."""
        was_built = any(manifest.stage == name for manifest in self.pipeline.materialized)
        if was_built or not all(verdict.passed for verdict in verdicts.values()):
            for check, verdict in verdicts.items():
                shown = _shown(check, verdict)
                self.context.log_event(dg.AssetCheckEvaluation(asset_key=self.key(name), **shown))

    def checks(self) -> list[dg.AssetCheckResult]:
        """Evaluate the checks of this asset on its shards that are up to date."""
        verdicts = judge(self.pipeline, self.name)
        return [dg.AssetCheckResult(**_shown(check, verdict)) for check, verdict in verdicts.items()]


def _shown(check: str, verdict: Verdict) -> dict[str, Any]:
    """Return the arguments that Dagster's check results and check events share."""
    return {
        "check_name": check,
        "passed": verdict.passed,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": verdict.summary,
        "metadata": verdict.numbers,
    }


def prepare_inputs(name: str, stages: Sequence[Stage], selected: Set[str], run: ResolvedRun) -> None:
    """Generate the files that a run reads and its profile does not name; keep existing ones.

    Args:
        name: name of this step's stage.
        selected: names of all stages in the run; the stages that they read are prepared too.

    Raises:
        StorageError: the disk is full or read-only.
    """
    by_name = {stage.name: stage for stage in stages}
    wanted = [by_name[one] for one in sorted(selected | {name}) if one in by_name]
    for stage in wanted:  # the list grows while it is iterated
        sources = (by_name[source] for source in (*stage.inputs, *stage.additional_inputs(run)))
        wanted += [source for source in sources if source not in wanted]
    for prepare in {stage.prepare for stage in wanted}:
        prepare(run)


def check_side_inputs(pipeline: Pipeline, name: str, selected: Set[str]) -> None:
    """Run the preflight checks of all stages of a run, in its first steps.

    Args:
        pipeline: the step's pipeline.
        name: name of this step's stage. If one of its inputs is selected too, an earlier step has run the checks.
        selected: names of all stages in the run.

    Raises:
        UserError: a later stage cannot use a file.
    """
    names = [other for other in pipeline.stages if other in selected | {name}]
    if selected.isdisjoint(pipeline.stages[name].inputs):
        pipeline.preflight(names)
    else:
        pipeline.run.passed.update(pipeline.stages[other].preflight for other in names)


def identity(scope: Scope, settings: Settings) -> Metadata:
    """Return the first rows of a set's metadata: what it belongs to."""
    of_scope: dict[Scope, Metadata] = {
        "seed": {},
        "budget": {"budget": settings.budget, "draw_seed": settings.draw_seed},
        "recipe": {"recipe": settings.recipe.name},
    }
    return of_scope[scope] | {"profile": settings.profile.name, "seed_file": seed_file_of(settings.profile)}


def _keys(context: dg.AssetExecutionContext) -> Set[dg.AssetKey]:
    return set(context.job_def.asset_layer.executable_asset_keys)


def _selected(context: dg.AssetExecutionContext) -> set[str]:
    """Return the names of all stages in a run, of any recipe; what they read first depends on the profile only."""
    return {key.path[-1] for key in _keys(context)}


def run_shards(step: StepRun) -> dg.MaterializeResult:
    """Materialize every selected shard; a failed shard does not stop the others.

    Raises:
        UserError: raised at once, because settings and files are the same for every shard.
        dagster.Failure: shards failed. Raised once the other shards are done; the next run builds only the failed ones.
    """
    shards = step.context.partition_keys
    step.begin(shards)
    failed = step.prepare(shards)
    for shard in shards:
        if shard in failed or shard in step.reported:
            continue
        if reason := step.attempt(step.name, shard):
            failed[shard] = reason
        elif shard not in step.reported:  # it was up to date
            step.report(step.pipeline.ensure(step.name, shard))
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(shards)} shards of {step.name} failed: "
            + "; ".join(f"{shard}: {reason}" for shard, reason in failed.items())
            + ". The others are done; materialize again to build only the failed ones.",
            allow_retries=False,
        )
    step.refuse_changed_inputs()
    return dg.MaterializeResult(check_results=step.checks())


def run_whole(step: StepRun) -> dg.MaterializeResult:
    """Materialize an unsharded set.

    Raises:
        dagster.Failure: an input cannot be built; the message names it.
    """
    step.begin([WHOLE])
    if failed := step.prepare([WHOLE]):
        raise dg.Failure(f"{step.name} cannot be built: {failed[WHOLE]}", allow_retries=False)
    manifest = step.pipeline.ensure(step.name)
    step.refuse_changed_inputs()
    if step.name == "eval_results":
        write_summary(step.pipeline.settings)
    return dg.MaterializeResult(
        metadata=step.metadata(manifest),
        check_results=step.checks(),
        data_version=dg.DataVersion(manifest.digest[:16]),
    )


@contextmanager
def user_errors_as_failures() -> Iterator[None]:
    """Convert errors with a complete message (with the fix, or a child's output) to failures without a traceback."""
    try:
        yield
    except (UserError, EnvironmentFault, ChildFailedError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None
