"""Dagster code location. In: the active profile and all recipes. Out: ``defs``. Importing it loads no model library.

``build_definitions`` combines assets, jobs, schedule, sensor and resources; tests pass other stages and profiles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import dagster as dg

from bettersynth_assets.config.experiments import KnownExperiment, load_experiments, with_arms
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.config.settings import load_active_profile
from bettersynth_assets.defs.assets import build_assets
from bettersynth_assets.defs.automation import build_job, build_schedule, build_sensor
from bettersynth_assets.defs.cards import CARDS, Card
from bettersynth_assets.defs.experiment_step import name_experiments
from bettersynth_assets.defs.experiments import build_experiment, build_experiment_job, build_experiment_schedules
from bettersynth_assets.defs.recipe_assets import check_names, name_assets
from bettersynth_assets.defs.resources.executor import step_processes
from bettersynth_assets.defs.resources.gpu import GpuResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.stages.graph import STAGES

# Backfill policies are beta, but cannot change, because pyproject.toml pins Dagster to 1.13.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def build_definitions(
    stages: tuple[Stage, ...],
    profile: Profile,
    recipes: Sequence[Recipe],
    cards: tuple[Card, ...] = CARDS,
    experiments: Sequence[KnownExperiment] = (),
) -> dg.Definitions:
    """Build the Dagster definitions of ``stages`` for a profile.

    Args:
        stages: the stages, in the order of the graph.
        profile: determines the shards, the schedule and the seed file.
        recipes: each gets assets and a job. The first one is the default recipe, whose assets have plain names.
        cards: presentation of the assets, one per stage.
        experiments: each gets three assets and a job; recipes of their arms that are not in ``recipes`` get assets too.
    """
    recipes = with_arms(recipes, experiments)
    check_names(recipes, stages, {card.group for card in cards})
    named = name_assets(recipes, profile)
    compared = name_experiments(experiments, named, stages, cards)
    return dg.Definitions(
        assets=[
            *build_assets(stages, named, profile, cards),
            *(asset for own in compared for asset in build_experiment(own, profile)),
        ],
        jobs=[*(build_job(assets, stages) for assets in named), *map(build_experiment_job, compared)],
        schedules=[build_schedule(profile, named[0].job), *build_experiment_schedules(compared)],
        sensors=[build_sensor(profile, named[0].job)],
        resources={"settings": RunSettings(), "gpu": GpuResource.of(profile.gpu)},
        executor=step_processes,
    )


_profile = load_active_profile()
_recipes = load_recipes(_profile)
defs = build_definitions(STAGES, _profile, _recipes, experiments=load_experiments(_profile, _recipes))
