"""Refuses a recipe before anything is made, whichever assets are selected. In: a launch. Out: its settings.

Every step of a run is a process of its own. The first one to check marks the run with a tag, so that the others, which
would import Data-Juicer for it, need not.
"""

from __future__ import annotations

import dagster as dg

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.operators.recipe_check import check_recipe, recipe_key

TAG = ".dagster/bettersynth/checked_recipe"  # the UI hides tags with this prefix


def with_checked_recipe(context: dg.AssetExecutionContext, settings: Settings) -> Settings:
    """Check the recipe of a launch, once per run; warnings go to its log.

    Raises:
        ConfigError: as ``check_recipe``.
    """
    key = recipe_key(settings)[:16]
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or run.tags.get(TAG) != key:
        for words in check_recipe(settings):
            context.log.warning(words)
        if run is not None:
            context.instance.add_run_tags(context.run_id, {TAG: key})
    return settings
