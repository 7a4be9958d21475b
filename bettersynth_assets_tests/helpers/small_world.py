"""Sizes of the world that all tests of the miniature share."""

from __future__ import annotations

from bettersynth_assets.miniature.question_sets import SetSizes

ROWS = 150
SIZES = SetSizes(finetune=30, finetune_gqa=0, textvqa=24, mmbench=14, mme=2, pope=5, gqa=10)
