"""A recipe's lists of operators within a stage. In: a resolved run, a list. Out: built operators, processed rows.

Passes to ``operators`` what it needs of the run: models, devices, the trust in code, the folder of images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import no_log
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.custom_operators import use_custom_operators
from bettersynth_assets.operators.data_juicer import build_operators, operators_key, own_similarity
from bettersynth_assets.operators.process import Processed, run_process
from bettersynth_assets.stages.run_models import RunModels

Embeddings = Sequence[NDArray[np.float32] | None] | NDArray[np.float32]


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


def build_list(run: ResolvedRun, limits: Sequence[Operator], *, has_all_rows: bool = False) -> list[BuiltOperator]:
    """Build a list with resolved limits.

    Args:
        run: the run, which names models and devices.
        limits: the list.
        has_all_rows: True if the stage processes the rows of all shards at once.
    """
    profile = run.settings.profile
    shards = 1 if has_all_rows else profile.shards
    return build_operators(limits, run.operator_models, run.gpu, shards=shards, trusted_code=profile.trusted_code)


def process_rows(
    rows: pa.Table,
    operators: Sequence[BuiltOperator],
    *,
    entries: Sequence[Operator],
    stage: str,
    image_root: Path,
    models: RunModels,
    embeddings: Embeddings | None = None,
    log: Callable[[str], None] = no_log,
) -> Processed:
    """Run built operators over rows, and score the captions that they change with the model of clip_scores.

    Args:
        rows: see ``run_process``.
        operators: the operators that run.
        entries: the list that they were built from.
        stage: name for the tables of rejects and quarantine.
        image_root: folder that the rows' image paths are relative to.
        models: the run's models; the scorer is loaded if a caption changes.
        embeddings: see ``run_process``.
        log: see ``run_process``.
    """

    def rescore(paths: Sequence[Path], captions: Sequence[str]) -> Sequence[float | ImageError]:
        if not captions:
            return []
        scored = score_files(models.scorer, paths, captions)
        return [scored.errors.get(index, score) for index, score in enumerate(scored.scores.tolist())]

    return run_process(
        rows,
        operators,
        stage=stage,
        image_root=image_root,
        rescore=None if own_similarity(entries) else rescore,
        embeddings=embeddings,
        log=log,
    )
