"""A small world, generated once and shared by all tests of the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.miniature.generate import generate_world
from bettersynth_assets_tests.helpers.small_world import ROWS, SIZES


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> WorldPaths:
    root: Path = tmp_path_factory.mktemp("miniature") / "world"
    return generate_world(root, rows=ROWS, random_seed=3, sizes=SIZES, workers=1)
