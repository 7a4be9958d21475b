"""Dagster code location. In: the active profile. Out: ``defs``. Importing it loads no model library.

``build_definitions`` combines assets, job, schedule, sensor and resources; tests pass other stages and profiles.
"""

from __future__ import annotations

import warnings

import dagster as dg

from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.settings import load_active_profile
from bettersynth_assets.defs.assets import build_assets
from bettersynth_assets.defs.automation import build_job, build_schedule, build_sensor
from bettersynth_assets.defs.cards import CARDS, Card
from bettersynth_assets.defs.resources.executor import step_processes
from bettersynth_assets.defs.resources.gpu import GpuResource
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.stages.graph import STAGES

# Backfill policies are beta, but cannot change, because pyproject.toml pins Dagster to 1.13.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def build_definitions(stages: tuple[Stage, ...], profile: Profile, cards: tuple[Card, ...] = CARDS) -> dg.Definitions:
    """Build the Dagster definitions of ``stages`` for ``profile``."""
    return dg.Definitions(
        assets=build_assets(stages, profile, cards),
        jobs=[build_job()],
        schedules=[build_schedule(profile)],
        sensors=[build_sensor(profile)],
        resources={"settings": RunSettings(), "gpu": GpuResource.of(profile.gpu)},
        executor=step_processes,
    )


defs = build_definitions(STAGES, load_active_profile())
