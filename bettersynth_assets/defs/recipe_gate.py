"""Checks the recipes of a Dagster run before anything is built. In: a step and the recipes. Out: an error, or none.

Every step of a run is a separate process. The first step that checks the recipes tags the run, so that the other steps
do not have to import Data-Juicer for the check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.recipe_check import check_recipe, recipe_key
from toolkit.files import digest_of

TAG = ".dagster/bettersynth/checked_recipes"  # the UI hides tags with this prefix


def require_checked_recipes(
    context: dg.AssetExecutionContext, resolved: ResolvedRun, recipes: Sequence[Recipe]
) -> None:
    """Check the recipes, or find that another step of this Dagster run has checked them; log warnings.

    Args:
        context: the step.
        resolved: the settings of the step. Its own recipe counts as checked afterwards: if no asset of the run belongs
            to it, the step's set depends on no recipe.
        recipes: the recipes that have assets in the run.

    Raises:
        ConfigError: see ``check_recipe``; the message names the recipe if the run has several.
    """
    runs = [
        resolved if recipe == resolved.recipe else ResolvedRun(replace(resolved.settings, recipe=recipe))
        for recipe in recipes
    ]
    key = digest_of(*(recipe_key(one.settings) for one in runs))[:16]
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or run.tags.get(TAG) != key:
        for one in runs:
            for warning in _check(one, name_it=len(runs) > 1):
                context.log.warning(warning)
        if run is not None:
            context.instance.add_run_tags(context.run_id, {TAG: key})
    resolved.passed.add(check_recipe)


def _check(run: ResolvedRun, *, name_it: bool) -> list[str]:
    try:
        return check_recipe(run)
    except ConfigError as error:
        if not name_it:
            raise
        raise ConfigError(f"recipe {run.recipe.name!r}: {error}") from None
