"""Builds lists of operators with a whole profile, as the stages do with what a run has resolved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.operators import data_juicer
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.scheduler.devices import resolve_devices


def build_operators(
    entries: Sequence[Operator], profile: Profile, *, has_all_rows: bool = False
) -> list[BuiltOperator]:
    shards = 1 if has_all_rows else profile.shards
    models, device = OperatorModels(profile.models), resolve_devices(profile.gpu)[0]
    return data_juicer.build_operators(
        entries, models, profile.gpu, device=device, shards=shards, trusted_code=profile.trusted_code
    )


def operators_key(entries: Sequence[Operator], profile: Profile) -> dict[str, Any]:
    return data_juicer.operators_key(entries, OperatorModels(profile.models), profile.gpu)
