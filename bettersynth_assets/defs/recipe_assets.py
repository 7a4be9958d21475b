"""Which asset holds which set of a recipe. In: a profile and its recipes. Out: asset keys and groups.

::

    scope of the set     default recipe      another recipe                with another budget than the profile's
    seed                 clip_scores         clip_scores                   clip_scores
    budget (baseline)    baseline_set        baseline_set                  budget_2000/baseline_set
    recipe               filtered_set        clip_top_k/filtered_set       clip_top_k/filtered_set

Two recipes that share a set have the same key for it, and the set is one asset.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Self

import dagster as dg

from bettersynth_assets.config.names import EXPERIMENT
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import identifier
from bettersynth_assets.config.settings import Scope
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.errors import ConfigError

_BUDGET = "budget_{}"


@dataclass(frozen=True, kw_only=True)
class RecipeAssets:
    """The assets of one recipe."""

    recipe: Recipe
    is_default: bool
    """True for the recipe whose assets have plain names."""
    prefixes: Mapping[Scope, tuple[str, ...]]
    """First parts of the keys, by scope; empty for plain names."""

    @classmethod
    def of(cls, recipe: Recipe, profile: Profile, *, is_default: bool) -> Self:
        """Name the assets of a recipe."""
        own = recipe.budget.exposures
        plain = own is None or own == profile.budget
        prefixes: dict[Scope, tuple[str, ...]] = {
            "seed": (),
            "budget": () if plain else (_BUDGET.format(own),),
            "recipe": () if is_default else (recipe.name,),
        }
        return cls(recipe=recipe, is_default=is_default, prefixes=prefixes)

    @property
    def job(self) -> str:
        """Name of the job that materializes all sets of the recipe."""
        return identifier(self.recipe.name)

    def key(self, stage: Stage) -> dg.AssetKey:
        return dg.AssetKey([*self.prefixes[stage.scope], stage.name])

    def group(self, stage: Stage, group: str) -> str:
        """Return the group of a set: a recipe other than the default one has a group of its own."""
        return group if self.is_default or stage.scope != "recipe" else identifier(self.recipe.name)


def name_assets(recipes: Sequence[Recipe], profile: Profile) -> tuple[RecipeAssets, ...]:
    """Name the assets of all recipes; the first one is the default recipe."""
    return tuple(RecipeAssets.of(recipe, profile, is_default=recipe is recipes[0]) for recipe in recipes)


def recipes_of(keys: Set[dg.AssetKey], recipes: Sequence[RecipeAssets], stages: Sequence[Stage]) -> list[Recipe]:
    """Return the recipes that have sets of their own among the assets of a run."""
    own = [stage for stage in stages if stage.scope == "recipe"]
    return [assets.recipe for assets in recipes if not keys.isdisjoint(map(assets.key, own))]


def check_names(recipes: Sequence[Recipe], stages: Sequence[Stage], groups: Collection[str]) -> None:
    """Refuse recipe names that are names of sets, of groups, of experiments, or of the baselines of a budget.

    Raises:
        ConfigError: the name is used; the message names it.
    """
    used = {*groups, *(stage.name for stage in stages)}
    for recipe in recipes:
        name = identifier(recipe.name)
        if name in used or name.startswith(EXPERIMENT) or re.fullmatch(_BUDGET.format(r"\d+"), name):
            raise ConfigError(
                f"recipe name {recipe.name!r} is the name of a set or a group of assets: rename the recipe's file, or "
                "set another `name` in it"
            )
