"""Checks the recipe before anything is built, for any selection of assets. In: a run. Out: its settings.

Every step of a run is a separate process. The first step that checks the recipe tags the run, so that the other steps
do not have to import Data-Juicer for the check.
"""

from __future__ import annotations

import dagster as dg

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.operators.recipe_check import check_recipe, recipe_key

TAG = ".dagster/bettersynth/checked_recipe"  # the UI hides tags with this prefix


def with_checked_recipe(context: dg.AssetExecutionContext, settings: Settings) -> Settings:
    """Check the recipe once per run; log warnings; return the settings.

    Raises:
        ConfigError: see ``check_recipe``.
    """
    key = recipe_key(settings)[:16]
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or run.tags.get(TAG) != key:
        for warning in check_recipe(settings):
            context.log.warning(warning)
        if run is not None:
            context.instance.add_run_tags(context.run_id, {TAG: key})
    return settings
