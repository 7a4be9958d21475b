"""Sizes of worlds: the one that all tests of the miniature share, and the smallest one for other tests."""

from __future__ import annotations

from bettersynth_assets.miniature.splits import QuestionSizes, SetSizes

ROWS = 150
TUNE = QuestionSizes(textvqa=24, mmbench=14, mme=2, pope=5, gqa=10)
REPORT = QuestionSizes(textvqa=30, mmbench=15, mme=1, pope=4, gqa=20)
SIZES = SetSizes(finetune=30, finetune_gqa=0, tune=TUNE, report=REPORT)
_FEW = QuestionSizes(textvqa=4, mmbench=2, mme=1, pope=1, gqa=1)
FEWEST = SetSizes(finetune=6, finetune_gqa=0, tune=_FEW, report=_FEW)
