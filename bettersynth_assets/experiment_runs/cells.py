"""Cells of an experiment's grid of arms and training seeds, and the training set of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bettersynth_assets.config.experiment import BASELINE, Experiment, is_random_rows
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.stages.budget import BASELINE_SET, BUDGETED_SET

SEPARATOR = "|"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of an experiment."""

    arm: str
    seed: int
    """Training seed."""

    @property
    def partition(self) -> str:
        """Return the key of the cell's partition in Dagster."""
        return f"{self.arm}{SEPARATOR}{self.seed}"


@dataclass(frozen=True, kw_only=True)
class SetOf:
    """The training set of a cell: the settings under which it is built, and its stage."""

    settings: Settings
    stage: str


def training_seeds(profile: Profile, count: int) -> list[int]:
    """Return the first ``count`` training seeds, ascending: the profile's, then the following numbers."""
    own = sorted(set(profile.training.seeds))
    return [*own, *range(own[-1] + 1, own[-1] + 1 + count)][:count]


def grid(experiment: Experiment, profile: Profile) -> list[Cell]:
    """Return all cells up to ``seeds.max``, the baseline's first."""
    seeds = training_seeds(profile, experiment.seeds.max)
    return [Cell(arm=arm, seed=seed) for arm in (BASELINE, *experiment.arms) for seed in seeds]


def cells_of(counts: Mapping[str, int], profile: Profile) -> list[Cell]:
    """Return the first cells of each arm, arm by arm."""
    return [Cell(arm=arm, seed=seed) for arm, count in counts.items() for seed in training_seeds(profile, count)]


def parse_cells(partitions: Sequence[str]) -> list[Cell]:
    """Return the cells of partition keys."""
    parts = [key.rpartition(SEPARATOR) for key in partitions]
    return [Cell(arm=arm, seed=int(seed)) for arm, _, seed in parts]


def set_of(cell: Cell, experiment: Experiment, recipes: Mapping[str, Recipe], settings: Settings) -> SetOf:
    """Return the training set of a cell.

    Args:
        cell: the cell.
        experiment: the experiment.
        recipes: by arm, see ``config.experiment.recipes_of``.
        settings: of the active profile, with any recipe.
    """
    recipe = recipes[cell.arm]
    at = training_seeds(settings.profile, experiment.seeds.max).index(cell.seed)
    if cell.arm == BASELINE and is_random_rows(recipe):
        draw = recipe.budget.seed + at % (experiment.baseline.draws or experiment.seeds.max)
        return SetOf(settings=replace(settings, recipe=recipe, draw_seed=draw), stage=BASELINE_SET.name)
    draws = 1 if cell.arm == BASELINE else experiment.arms[cell.arm].draws
    if draw := at % draws:
        budget = recipe.budget.model_copy(update={"seed": recipe.budget.seed + draw})
        recipe = recipe.model_copy(update={"name": f"{recipe.name}.draw_{draw}", "budget": budget})
    return SetOf(settings=replace(settings, recipe=recipe), stage=BUDGETED_SET.name)
