"""An experiment in one step of a Dagster run. In: an experiment, names of its assets. Out: runs, reported to Dagster.

``ExperimentAssets`` names the assets of an experiment and those of its arms' recipes. ``ExperimentStep`` opens the
experiment with the settings of the run, and reports each training set and each run that it builds under its own asset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

# Private: the type that `dg.define_asset_job` returns has no public name.
from bettersynth_assets.config.experiment import BASELINE
from bettersynth_assets.config.experiments import KnownExperiment
from bettersynth_assets.config.names import EXPERIMENT
from bettersynth_assets.defs.cards import Card
from bettersynth_assets.defs.recipe_assets import RecipeAssets
from bettersynth_assets.defs.resources.gpu import SectionResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.defs.run_tags import tag_run
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.engine.store import WHOLE, Manifest
from bettersynth_assets.experiment_runs.cells import Cell
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiment_runs.result import rows_of
from bettersynth_assets.experiment_runs.runs import Wanted
from bettersynth_assets.reports.metadata import describe

_SHOWN = ("run", "training_seed", "pretrain_exposures", "pretrain_unique_rows", "pretrain_supervised_tokens",
          "pretrain_seconds", "finetune_seconds", "finetune_final_loss", "pretrain_device", "commit")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExperimentAssets:
    """Names of an experiment's assets, and the assets of its arms' recipes."""

    known: KnownExperiment
    stages: Mapping[str, Stage]
    recipes: Mapping[str, RecipeAssets]
    """By name of the recipe."""
    leased: frozenset[str]

    @property
    def group(self) -> str:
        """Name of the group, of the job, and of the keys' first part."""
        return f"{EXPERIMENT}{self.known.experiment.name}"

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.group, name])

    def sets(self) -> list[dg.AssetKey]:
        """Return the training sets that the runs are trained on, except those of a curve, which have no assets."""
        found = [self.recipes[recipe.name].key(self.stages["budgeted_set"]) for arm, recipe in
                 self.known.recipes.items() if arm != BASELINE and recipe.name in self.recipes]  # fmt: skip
        baseline = self.recipes[self.known.recipes[BASELINE].name].key(self.stages["baseline_set"])
        return list(dict.fromkeys([baseline, *found]))

    def set_key(self, manifest: Manifest, run: ResolvedRun) -> dg.AssetKey | None:
        """Return the asset of a set that was built; None for a further draw of rows, which has none."""
        owner = self.recipes.get(run.recipe.name)
        stage = self.stages[manifest.stage]
        is_draw = stage.scope == "budget" and run.settings.draw_seed != type(run.settings).draw_seed
        return None if owner is None or is_draw else owner.key(stage)


def name_experiments(
    experiments: Sequence[KnownExperiment],
    recipes: Sequence[RecipeAssets],
    stages: Sequence[Stage],
    cards: Sequence[Card],
) -> list[ExperimentAssets]:
    """Name the assets of all experiments."""
    leased = frozenset(card.name for card in cards if card.uses_models)
    by_recipe = {assets.recipe.name: assets for assets in recipes}
    by_name = {stage.name: stage for stage in stages}
    return [ExperimentAssets(known=one, stages=by_name, recipes=by_recipe, leased=leased) for one in experiments]


class ExperimentStep:
    """An experiment in one step of a Dagster run; reports to Dagster what it builds."""

    def __init__(
        self, context: dg.AssetExecutionContext, own: ExperimentAssets, settings: RunSettings, gpu: SectionResource
    ) -> None:
        self.context, self.own = context, own
        known = own.known
        loaded = gpu.apply(settings.load(known.recipes[BASELINE]))
        tag_run(context, loaded.profile, list(known.recipes.values()))
        self.opened = ExperimentRun(
            known.experiment,
            known.recipes,
            loaded,
            leased=own.leased,
            stages=tuple(own.stages.values()),
            log=context.log.info,
            on_built=self.built,
            on_cell=self.trained,
        )

    def built(self, manifest: Manifest, run: ResolvedRun) -> None:
        """Report a shard of a training set under its own asset."""
        key = self.own.set_key(manifest, run)
        if key is not None:
            metadata = describe(manifest, run, rows=self.own.stages[manifest.stage].columns is not None)
            partition = None if manifest.shard == WHOLE else manifest.shard
            self.context.log_event(dg.AssetMaterialization(key, metadata=metadata, partition=partition))

    def trained(self, cell: Cell, wanted: Wanted) -> None:
        """Report a cell of the grid."""
        event = dg.AssetMaterialization(self.own.key("runs"), metadata=self.metadata(wanted), partition=cell.partition)
        self.context.log_event(event)

    def metadata(self, wanted: Wanted) -> dict[str, Any]:
        """Return what the UI shows about a run."""
        (row,) = rows_of(self.opened.settings.experiments_root, [wanted.name])
        return {name: row[name] for name in _SHOWN if row[name] is not None}
