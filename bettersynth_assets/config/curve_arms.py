"""Arms of an experiment that declares a curve. In: an experiment. Out: the same experiment with one arm per point."""

from __future__ import annotations

from collections.abc import Callable

from bettersynth_assets.config.curve import RANDOM
from bettersynth_assets.config.experiment import Arm, Experiment, is_random_rows
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.errors import ConfigError


def with_curve_arms(experiment: Experiment, find: Callable[[str], Recipe], profile: Profile) -> Experiment:
    """Return an experiment with the arms of its curve, if it has one. Every run draws its own rows.

    Args:
        experiment: the experiment.
        find: returns a recipe by its name or path.
        profile: its budget is that of a recipe without its own.

    Raises:
        ConfigError: the recipe is unknown or random rows itself, the baseline is not random rows, or a number of
            repeats leaves no row.
    """
    if (curve := experiment.curve) is None:
        return experiment
    where = f"experiment {experiment.name}: curve"
    try:
        recipe = find(curve.recipe)
    except ConfigError as error:
        raise ConfigError(f"{where}.recipe: {error}") from None
    if is_random_rows(recipe):
        raise ConfigError(
            f"{where}: recipe {recipe.name} is random rows, with which a curve compares: name another recipe"
        )
    if not is_random_rows(find(experiment.baseline.recipe)):
        raise ConfigError(f"{where} compares with random rows, which {experiment.baseline.recipe} is not: leave "
                          "`baseline.recipe` out")  # fmt: skip
    exposures = recipe.budget.exposures or profile.budget
    if max(curve.repeats) > exposures:
        raise ConfigError(f"{where}.repeats: {max(curve.repeats)} leaves no row: give numbers from 1 to {exposures}")
    arms = {}
    for name, changes in curve.points(exposures).items():
        for prefix, of in (("", curve.recipe), (RANDOM, experiment.baseline.recipe)):
            arms[prefix + name] = Arm(recipe=of, set=dict(changes), draws=experiment.seeds.max)
    return experiment.model_copy(update={"arms": arms})
