"""The settings of a launch. In: the environment and the launch's run config. Out: ``Settings``.

This is one resource instead of a config per asset, so that a launch always uses the same recipe for all of its assets.
"""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from bettersynth_assets.config.settings import Settings, load_settings


class RunSettings(dg.ConfigurableResource):
    """Settings that a launch may override; empty values come from the environment and the files."""

    recipe: str | None = Field(
        default=None, description="A shipped recipe's name or the path of a .yaml; empty: BETTERSYNTH_RECIPE."
    )

    benchmarks: list[str] | None = Field(
        default=None,
        description="Only these of the profile's benchmarks, e.g. [textvqa]; empty: all. Other answers are kept.",
    )

    def load(self) -> Settings:
        """Load the settings of this launch.

        Raises:
            ConfigError: a profile, recipe or environment variable is not valid.
        """
        settings = load_settings(recipe=self.recipe)
        return settings.with_benchmarks(self.benchmarks) if self.benchmarks else settings
