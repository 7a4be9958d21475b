"""The settings of a launch. In: the environment and the launch's run config. Out: ``Settings``.

The recipe is not part of them: each asset belongs to one recipe, or to all of them.
"""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import how_to_select
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.errors import ConfigError


class RunSettings(dg.ConfigurableResource):
    """Settings that a launch may override; empty values come from the environment and the files."""

    recipe: str | None = Field(
        default=None, description="Not supported any more: select the recipe's own assets, or its job."
    )

    benchmarks: list[str] | None = Field(
        default=None,
        description="Only these of the profile's benchmarks, e.g. [textvqa]; empty: all. Other answers are kept.",
    )

    def load(self, recipe: Recipe) -> Settings:
        """Load the settings of this launch for the recipe of an asset.

        Raises:
            ConfigError: a profile or environment variable is not valid, or the launch names a recipe.
        """
        if self.recipe:
            raise ConfigError(
                f"resources.settings.config.recipe = {self.recipe!r} is not supported any more: "
                f"{how_to_select(self.recipe)}; then remove it from the run config"
            )
        settings = load_settings(recipe=recipe)
        return settings.with_benchmarks(self.benchmarks) if self.benchmarks else settings
