"""All stages in the order that rows pass them. In: their modules. Out: ``STAGES``. Imports no model library."""

from __future__ import annotations

from bettersynth_assets.engine.stage import Stage
from bettersynth_assets.stages.budget import BASELINE_SET, BUDGETED_SET
from bettersynth_assets.stages.evaluate import BASELINE_RESULTS, EVAL_RESULTS
from bettersynth_assets.stages.filter import FILTERED_SET
from bettersynth_assets.stages.operator_order import OPERATOR_PLAN
from bettersynth_assets.stages.recaption import RECAPTIONED_SET
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets.stages.seed_statistics import SEED_PROFILE
from bettersynth_assets.stages.train import BASELINE_CHECKPOINT, MGM_CHECKPOINT

STAGES: tuple[Stage, ...] = (
    SEED_DATASET,
    CLIP_SCORES,
    SEED_PROFILE,
    OPERATOR_PLAN,
    FILTERED_SET,
    RECAPTIONED_SET,
    BUDGETED_SET,
    MGM_CHECKPOINT,
    EVAL_RESULTS,
    BASELINE_SET,
    BASELINE_CHECKPOINT,
    BASELINE_RESULTS,
)
