"""The settings of a launch. In: the environment and, for one launch, its run config. Out: ``Settings``.

One resource rather than a config per asset: a launch that changes the recipe changes it for every asset that it runs,
in one place, and no asset is left behind on another recipe.
"""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from bettersynth_assets.config.settings import Settings, load_settings


class RunSettings(dg.ConfigurableResource):
    """What one launch may change; left empty, the environment and the files decide."""

    recipe: str | None = Field(
        default=None, description="A shipped recipe's name or the path of a .yaml; empty: BETTERSYNTH_RECIPE."
    )

    benchmarks: list[str] | None = Field(
        default=None,
        description="Only these of the profile's benchmarks, e.g. [textvqa]; empty: all. Other answers are kept.",
    )

    def load(self) -> Settings:
        """The settings of this launch.

        Raises:
            ConfigError: a profile, recipe or environment variable that cannot be used.
        """
        settings = load_settings(recipe=self.recipe)
        return settings.with_benchmarks(self.benchmarks) if self.benchmarks else settings
