"""The stages from a seed file to captions, on a small seed file with tiny models."""

from __future__ import annotations

from bettersynth_assets.stages.filter import FILTERED_SET
from bettersynth_assets.stages.recaption import RECAPTIONED_SET
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets.stages.seed_statistics import SEED_PROFILE

STAGES = (SEED_DATASET, CLIP_SCORES, SEED_PROFILE, FILTERED_SET, RECAPTIONED_SET)
ROWS = 30
