"""Tags a run with recipe, profile and seed file, and keeps a history to one profile and seed file.

In: the settings of a step and the recipes of its run. Out: the run's tags, or an error. By default every profile and
seed file has a history of its own (``command_line.use_home``). A ``DAGSTER_HOME`` that the user sets is checked here,
because one asset would otherwise show results of several profiles or seed files.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import seed_label
from bettersynth_assets.errors import ConfigError

PROFILE = "bettersynth/profile"
SEED_FILE = "bettersynth/seed_file"
RECIPE = "bettersynth/recipe"
GENERATED = "generated miniature world"


def seed_file_of(profile: Profile) -> str:
    """Return the seed file as tags and metadata show it."""
    return seed_label(profile) or GENERATED


def tag_run(context: dg.AssetExecutionContext, profile: Profile, recipes: Sequence[Recipe]) -> None:
    """Add the tags to this step's run, unless an earlier step has done so.

    Args:
        context: the step.
        profile: the profile of the run.
        recipes: the recipes that have assets in the run; empty if all its assets are shared by all recipes.

    Raises:
        ConfigError: the history has runs of another profile or seed file.
    """
    run = context.instance.get_run_by_id(context.run_id)
    if run is None:
        return
    identity = {PROFILE: profile.name, SEED_FILE: seed_file_of(profile)}
    tags = identity | ({RECIPE: ", ".join(recipe.name for recipe in recipes)} if recipes else {})
    if tags.items() <= run.tags.items():
        return
    refuse_other_runs(context.instance, identity)
    context.instance.add_run_tags(context.run_id, tags)


def refuse_other_runs(instance: dg.DagsterInstance, identity: dict[str, str]) -> None:
    """Refuse a history that contains runs with other values of these tags.

    Raises:
        ConfigError: the message names the values and the fix.
    """
    recorded = dict(instance.get_run_tags(list(identity)))
    for tag, value in identity.items():
        if others := sorted(recorded.get(tag, set()) - {value}):
            what = tag.partition("/")[2].replace("_", " ")
            raise ConfigError(
                f"this Dagster history has runs of {what} {others[0]!r}, and this run uses {what} {value!r}: one asset "
                "must not show both. Unset DAGSTER_HOME (each profile and seed file then has its own history), or set "
                "it to another folder"
            )
