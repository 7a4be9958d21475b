"""Checks the recipe before anything is built, for any selection of assets. In: a Dagster run. Out: an error, or none.

Every step of a run is a separate process. The first step that checks the recipe tags the run, so that the other steps
do not have to import Data-Juicer for the check.
"""

from __future__ import annotations

import dagster as dg

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.stages.recipe_check import check_recipe, recipe_key

TAG = ".dagster/bettersynth/checked_recipe"  # the UI hides tags with this prefix


def require_checked_recipe(context: dg.AssetExecutionContext, resolved: ResolvedRun) -> None:
    """Check the recipe, or find that another step of this run has checked it; log warnings.

    Raises:
        ConfigError: see ``check_recipe``.
    """
    key = recipe_key(resolved.settings)[:16]
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or run.tags.get(TAG) != key:
        for warning in check_recipe(resolved):
            context.log.warning(warning)
        if run is not None:
            context.instance.add_run_tags(context.run_id, {TAG: key})
    resolved.passed.add(check_recipe)
