"""A recipe's lists of operators within a stage. In: a resolved run, a list. Out: a list that is ready to run, its key.

Passes to ``operators`` what it needs of the run: models, the device, the trust in code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.custom_operators import use_custom_operators
from bettersynth_assets.operators.data_juicer import build_operators, operators_key, own_similarity
from bettersynth_assets.operators.process import Rescore
from bettersynth_assets.stages.run_models import RunModels


@dataclass(frozen=True, kw_only=True)
class ReadyList:
    """A list that is ready to run: what ``run_process`` needs of the recipe and the profile."""

    limits: list[Operator]
    """The list as it was built, for the set's stats."""
    operators: list[BuiltOperator]
    rescore: Rescore | None
    """Scores the captions that the list changes; None if an operator scores with another model than clip_scores."""


def register_operators(run: ResolvedRun) -> None:
    """Register the recipe's ``custom_operators``. Every key of a stage with operators is computed after this.

    Raises:
        ConfigError: see ``use_custom_operators``.
    """
    trusted_code = run.settings.profile.trusted_code
    use_custom_operators(run.recipe.custom_operators, recipe=run.recipe.name, trusted_code=trusted_code)


def list_key(run: ResolvedRun, entries: Sequence[Operator]) -> dict[str, Any]:
    """Return what identifies a list's models and code, for keys."""
    return operators_key(entries, run.operator_models, run.gpu)


def ready_list(run: ResolvedRun, limits: list[Operator], *, has_all_rows: bool = False) -> ReadyList:
    """Build a list with resolved limits; captions that it changes are scored with the model of clip_scores.

    Args:
        run: the run, which names models and devices.
        limits: the list.
        has_all_rows: True if the stage processes the rows of all shards at once.
    """
    profile = run.settings.profile
    shards, trusts = 1 if has_all_rows else profile.shards, profile.trusted_code
    operators = build_operators(
        limits, run.operator_models, run.gpu, device=run.device, shards=shards, trusted_code=trusts
    )
    rescore = None if own_similarity(limits) else RunModels(run).similarities
    return ReadyList(limits=limits, operators=operators, rescore=rescore)
