"""All experiments that have assets. In: the profile and the environment. Out: the experiments and their recipes.

They are those of the project (or the package) and of the folders in ``BETTERSYNTH_EXPERIMENTS``, which are separated as
in ``PATH``. An experiment whose deciding benchmarks the profile does not evaluate has no assets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bettersynth_assets.config.curve_arms import with_curve_arms
from bettersynth_assets.config.experiment import BASELINE, Experiment, load_experiment, recipes_of
from bettersynth_assets.config.model import files_of_folders, shipped_files
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import choose_recipe
from bettersynth_assets.errors import ConfigError

FOLDERS = "BETTERSYNTH_EXPERIMENTS"


@dataclass(frozen=True, kw_only=True)
class KnownExperiment:
    """An experiment and the recipe of each of its arms."""

    experiment: Experiment
    recipes: Mapping[str, Recipe]


def load_experiments(
    profile: Profile, recipes: Sequence[Recipe], env: Mapping[str, str] = os.environ
) -> tuple[KnownExperiment, ...]:
    """Load every experiment that the profile can evaluate.

    Args:
        profile: the active profile.
        recipes: all recipes that arms may name.
        env: the environment.

    Raises:
        ConfigError: a file is not a valid experiment, an arm's recipe is unknown, two experiments have the same name,
            or a folder does not exist.
    """
    find = partial(choose_recipe, recipes=recipes)
    by_name: dict[str, KnownExperiment] = {}
    evaluated = profile.evaluation.chosen()
    can_tune = {name for name in evaluated if profile.evaluation.can_tune(name)}
    for path in [*shipped_files("experiments").values(), *files_of_folders(FOLDERS, env, "experiment")]:
        experiment = load_experiment(str(path))
        if experiment.name in by_name:
            raise ConfigError(f"{path}: another experiment has the name {experiment.name!r}: set another `name`")
        if set(experiment.decide.evaluated) <= (can_tune if experiment.purpose == "tune" else evaluated.keys()):
            experiment = with_curve_arms(experiment, find, profile)
            by_name[experiment.name] = KnownExperiment(experiment=experiment, recipes=recipes_of(experiment, find))
    return tuple(by_name.values())


def with_arms(recipes: Sequence[Recipe], experiments: Sequence[KnownExperiment]) -> tuple[Recipe, ...]:
    """Return the recipes, followed by those that only arms of experiments have.

    The arms of a curve differ in the number of their rows only. Like further draws of rows, they have no assets.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    for known in experiments:
        for arm, recipe in known.recipes.items():
            if known.experiment.curve is None or arm == BASELINE:
                by_name.setdefault(recipe.name, recipe)
    return tuple(by_name.values())
