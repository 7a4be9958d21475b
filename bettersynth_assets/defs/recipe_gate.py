"""Checks recipes before anything is built from them. In: a step of a Dagster run and the run's recipes. Out: an error.

Every step of a run is a separate process. The first step that checks a recipe tags the run, so that the other steps do
not have to import Data-Juicer for the check. Of several recipes in a run, those that pass are built.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.recipe_check import check_recipe, recipe_key

TAG = ".dagster/bettersynth/checked_recipes"  # the UI hides tags with this prefix


def require_checked_recipes(
    context: dg.AssetExecutionContext, resolved: ResolvedRun, recipes: Sequence[Recipe], *, is_shared: bool
) -> None:
    """Check the recipes that a step is needed for, or find that another step of this run has checked them.

    A set that recipes share is refused only if all of them are; the log names the others, whose own steps fail.

    Args:
        context: the step.
        resolved: the settings of the step.
        recipes: the recipes that have sets of their own in the run.
        is_shared: whether the step's set is shared by recipes; otherwise it belongs to the recipe of ``resolved``.

    Raises:
        ConfigError: see ``check_recipe``.
    """
    runs = [ResolvedRun(replace(resolved.settings, recipe=recipe)) for recipe in recipes] if is_shared else [resolved]
    run = context.instance.get_run_by_id(context.run_id)
    passed = {} if run is None else json.loads(run.tags.get(TAG, "{}"))
    keys = {one.recipe.name: recipe_key(one.settings)[:16] for one in runs}
    if not keys.items() & passed.items():
        passed |= {name: keys[name] for name in _passing(context, runs)}
        if run is not None:
            context.instance.add_run_tags(context.run_id, {TAG: json.dumps(passed, sort_keys=True)})
    resolved.passed.add(check_recipe)  # a step of a shared set builds no set of a recipe


def _passing(context: dg.AssetExecutionContext, runs: Sequence[ResolvedRun]) -> list[str]:
    """Return the names of the recipes that pass; log warnings, and the errors of the others.

    Raises:
        ConfigError: no recipe passes.
    """
    passing: list[str] = []
    errors: dict[str, ConfigError] = {}
    for one in runs:
        try:
            for warning in check_recipe(one):
                context.log.warning(warning)
            passing.append(one.recipe.name)
        except ConfigError as error:
            errors[one.recipe.name] = error
    if len(errors) == 1 and not passing:
        raise next(iter(errors.values()))
    if errors and not passing:
        raise ConfigError("; ".join(f"recipe {name!r}: {refusal}" for name, refusal in errors.items()))
    for name, refusal in errors.items():
        context.log.error(f"nothing of recipe {name!r} is built, the others are: {refusal}")
    return passing
