"""Assets, job and schedule of each experiment. In: experiments and their recipes. Out: a group ``experiment_<name>``.

::

    runs (partitions <arm>|<seed>) ─► comparisons ─┬─► leaderboard ─► ladder, if the experiment names profiles
                                                   └─► curve, if the experiment declares one

``runs`` trains and evaluates the selected cells of the grid. ``comparisons`` runs the looks of the experiment: it
builds the cells that the verdicts need and reports them under ``runs``, so the grid shows what was trained.
The experiment's job materializes all but ``runs``; cells that no verdict needs stay empty.

``runs`` names its training sets in its metadata and does not depend on them in Dagster: their downstream selection,
``key:"recaptioned_set"+``, would otherwise train whole experiments, and cannot mix shards and cells in one run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

# Private: the type that `dg.define_asset_job` returns has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from bettersynth_assets.config.experiment import BASELINE
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.defs.cards import OWNER
from bettersynth_assets.defs.experiment_step import ExperimentAssets, ExperimentStep
from bettersynth_assets.defs.materialize import user_errors_as_failures
from bettersynth_assets.defs.resources.executor import MODEL_STEP, die_with_run
from bettersynth_assets.defs.resources.gpu import SectionResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.experiment_runs.cells import grid, parse_cells
from bettersynth_assets.experiment_runs.curve import judge_curve
from bettersynth_assets.experiment_runs.ladder import read_ladder
from bettersynth_assets.experiment_runs.result import write_forms
from bettersynth_assets.experiments.checks import DESCRIPTIONS
from bettersynth_assets.experiments.comparison_table import as_markdown as comparisons_as_markdown
from bettersynth_assets.experiments.conclusions import sentences
from bettersynth_assets.experiments.curve_tables import as_markdown as curve_as_markdown
from bettersynth_assets.experiments.decisions import as_markdown as decisions_as_markdown
from bettersynth_assets.experiments.decisions import decision_accuracy
from bettersynth_assets.experiments.ladder_files import FORMATS as LADDER_FORMATS
from bettersynth_assets.experiments.ladder_files import as_markdown as ladder_as_markdown
from bettersynth_assets.experiments.leaderboard_files import as_markdown
from bettersynth_assets.reports.curve_files import as_image, write_curve

TAG = "bettersynth/experiment"


def build_experiment(own: ExperimentAssets, profile: Profile) -> list[dg.AssetsDefinition]:
    """Build the assets of one experiment."""
    experiment = own.known.experiment
    shared: dict[str, Any] = {"group_name": own.group, "owners": [OWNER], "tags": {TAG: experiment.name}}

    @dg.asset(
        key=own.key("runs"),
        partitions_def=dg.StaticPartitionsDefinition([cell.partition for cell in grid(experiment, profile)]),
        metadata={"training_sets": [key.to_user_string() for key in own.sets()]},
        backfill_policy=dg.BackfillPolicy.single_run(),
        **MODEL_STEP,
        kinds={"pytorch", "parquet"},
        description=(
            "One partition is one training run: an arm and a training seed. A run that exists already, also of another "
            "experiment or recipe with the same training data, is not trained again."
        ),
        **shared,
    )
    def runs(context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource) -> dg.MaterializeResult:
        die_with_run()
        with user_errors_as_failures():
            step = ExperimentStep(context, own, settings, gpu)
            cells = parse_cells(context.partition_keys)
            step.opened.bring(cells)
            for cell in cells:
                if wanted := step.opened.wanted(cell):
                    context.add_asset_metadata(step.metadata(wanted), partition_key=cell.partition)
        return dg.MaterializeResult()

    @dg.asset(
        key=own.key("comparisons"),
        deps=[own.key("runs")],
        backfill_policy=dg.BackfillPolicy.single_run(),
        **MODEL_STEP,
        kinds={"python", "scipy"},
        description=(
            "One row is one comparison of two arms in one benchmark, with its verdict. Trains the runs that the "
            "verdicts need, look by look, and no others."
        ),
        check_specs=[
            dg.AssetCheckSpec(name, asset=own.key("comparisons"), description=text)
            for name, text in DESCRIPTIONS.items()
        ],
        **shared,
    )
    def comparisons(
        context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource
    ) -> dg.MaterializeResult:
        die_with_run()
        with user_errors_as_failures():
            result = ExperimentStep(context, own, settings, gpu).opened.decide()
        return dg.MaterializeResult(
            metadata={
                "conclusions": dg.MetadataValue.md("\n".join(f"- {one}" for one in sentences(result.board))),
                "comparisons": dg.MetadataValue.md(comparisons_as_markdown(result.table.comparisons)),
                "decision accuracy": dg.MetadataValue.md(
                    decisions_as_markdown(decision_accuracy(result.scores, result.board.benchmarks))
                ),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=check.name,
                    passed=check.passed,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=check.summary,
                )
                for check in result.checks
            ],
        )

    @dg.asset(
        key=own.key("leaderboard"),
        deps=[own.key("comparisons")],
        backfill_policy=dg.BackfillPolicy.single_run(),
        kinds={"python", "markdown"},
        description=(
            "One row is one arm, sorted by the mean of the deciding benchmarks. It has intervals, differences to the "
            "baseline and to the best arm, verdicts and cost; also as JSON and CSV."
        ),
        **shared,
    )
    def leaderboard(
        context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource
    ) -> dg.MaterializeResult:
        with user_errors_as_failures():
            opened = ExperimentStep(context, own, settings, gpu).opened
            result = opened.result()
            files = result.write(opened.folder)
        return dg.MaterializeResult(
            metadata={
                "leaderboard": dg.MetadataValue.md(as_markdown(result.board)),
                **_paths(files),
            }
        )

    curve = [_curve(own, shared)] if experiment.curve else []
    ladder = [_ladder(own, shared)] if experiment.ladder else []
    return [runs, comparisons, leaderboard, *curve, *ladder]


def _paths(files: Sequence[Path]) -> dict[str, dg.MetadataValue]:
    """Return the paths of files as metadata, by ending."""
    return {file.suffix[1:]: dg.MetadataValue.path(file) for file in files}


def _curve(own: ExperimentAssets, shared: Mapping[str, Any]) -> dg.AssetsDefinition:
    """Build the asset with the plot and the tables of the experiment's repetition curve."""

    @dg.asset(
        key=own.key("curve"),
        deps=[own.key("comparisons")],
        backfill_policy=dg.BackfillPolicy.single_run(),
        kinds={"scipy", "matplotlib"},
        description=(
            "Scores at each number of repeats, the recipe against random rows, and the fitted worth of a repeated row "
            "(R*, docs/statistics.md) with its interval; a plot as SVG, tables as Markdown and JSON."
        ),
        **shared,
    )
    def curve(context: dg.AssetExecutionContext, settings: RunSettings, gpu: SectionResource) -> dg.MaterializeResult:
        with user_errors_as_failures():
            opened = ExperimentStep(context, own, settings, gpu).opened
            result = judge_curve(opened)
            files = write_curve(result, opened.folder)
        return dg.MaterializeResult(
            metadata={
                "curve": dg.MetadataValue.md(curve_as_markdown(result)),
                "plot": dg.MetadataValue.md(as_image(files["svg"])),
                **_paths([*files.values()]),
            }
        )

    return curve


def _ladder(own: ExperimentAssets, shared: Mapping[str, Any]) -> dg.AssetsDefinition:
    """Build the asset that compares the leaderboards of the profiles that the experiment names."""

    @dg.asset(
        key=own.key("ladder"),
        deps=[own.key("leaderboard")],
        backfill_policy=dg.BackfillPolicy.single_run(),
        kinds={"python", "markdown"},
        description=(
            "One row is two profiles and a benchmark: how far their results order the arms alike. Results of other "
            "profiles are read from the data root; those that are missing are listed as not measured."
        ),
        **shared,
    )
    def ladder(settings: RunSettings) -> dg.MaterializeResult:
        with user_errors_as_failures():
            loaded = settings.load(own.known.recipes[BASELINE])
            experiment = own.known.experiment
            found = read_ladder(experiment.name, experiment.ladder, loaded.data_root)
            files = write_forms(loaded.experiments_root / experiment.name, "ladder", LADDER_FORMATS, found)
        return dg.MaterializeResult(
            metadata={
                "ladder": dg.MetadataValue.md(ladder_as_markdown(found)),
                **_paths(files),
            }
        )

    return ladder


def build_experiment_job(own: ExperimentAssets) -> UnresolvedAssetJobDefinition:
    """Build the job that runs an experiment to its verdicts."""
    experiment = own.known.experiment
    more = [name for name, section in (("curve", experiment.curve), ("ladder", experiment.ladder)) if section]
    return dg.define_asset_job(
        own.group,
        selection=dg.AssetSelection.assets(*map(own.key, ["comparisons", "leaderboard", *more])),
        description=f"Runs the experiment {experiment.name}: {experiment.description}",
    )


def build_experiment_schedules(all_own: Sequence[ExperimentAssets]) -> list[dg.ScheduleDefinition]:
    """Build the schedules of the experiments that name one; they are stopped by default."""
    return [
        dg.ScheduleDefinition(
            name=f"{own.group}_schedule",
            job_name=own.group,
            cron_schedule=own.known.experiment.schedule,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
        for own in all_own
        if own.known.experiment.schedule is not None
    ]
