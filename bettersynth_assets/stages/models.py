"""The models of a run's settings, resolved. In: settings. Out: ``ResolvedModel`` values for the stages to hand down."""

from __future__ import annotations

from bettersynth_assets.config.resolved_model import ResolvedModel, resolve_model
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.models.diffusion import diffusion_model


def scorer_of(settings: Settings) -> ResolvedModel:
    return resolve_model(settings.profile.models.clip, role="clip")


def captioner_of(settings: Settings) -> ResolvedModel:
    return resolve_model(settings.profile.models.captioner, role="captioner")


def pipeline_of(settings: Settings) -> ResolvedModel:
    """The text-to-image pipeline."""
    return resolve_model(diffusion_model(settings.profile), role="diffusion")


def base_of(settings: Settings) -> ResolvedModel:
    """The model that both arms train from."""
    return resolve_model(settings.profile.models.base, role="base")
