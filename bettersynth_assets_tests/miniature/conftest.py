"""A small world, generated once for all tests of the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets.miniature.generate import WorldPaths, generate_world
from bettersynth_assets.miniature.question_sets import SetSizes

ROWS = 150
SIZES = SetSizes(finetune=30, finetune_gqa=0, textvqa=24, mmbench=14, mme=2, pope=5, gqa=10)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> WorldPaths:
    root: Path = tmp_path_factory.mktemp("miniature") / "world"
    return generate_world(root, rows=ROWS, random_seed=3, sizes=SIZES, workers=1)
