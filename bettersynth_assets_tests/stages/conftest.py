"""A small seed with tiny models, run by the real pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets_tests.helpers.rows import seed_table, tiny_profile
from bettersynth_assets_tests.helpers.seed_stages import ROWS, STAGES
from tiny_models.profile_models import TinyModels
from toolkit.tokens import kit_text


@pytest.fixture
def seed_root(tmp_path: Path) -> Path:
    """A folder with ``seed.jsonl`` of 30 rows and their images."""
    root = tmp_path / "seed"
    table = seed_table(root, ROWS)
    lines = [
        json.dumps({"id": row["id"], "text": kit_text(row["caption"]), "images": [row["image"]]})
        for row in table.to_pylist()
    ]
    (root / "seed.jsonl").write_text("".join(line + "\n" for line in lines))
    return root


@pytest.fixture
def settings(seed_root: Path, tiny_models: TinyModels, tmp_path: Path) -> Settings:
    """Three shards of that seed."""
    recipe = Recipe.parse({"name": "test", "baseline": True}, where="test")
    return Settings(profile=tiny_profile(tiny_models, seed_root, shards=3), recipe=recipe, data_root=tmp_path / "data")


@pytest.fixture
def pipeline(settings: Settings) -> Callable[..., Pipeline]:
    """A pipeline for a recipe's sections; each call stands for a new process on the same data root."""

    def make(**sections: object) -> Pipeline:
        values = {"name": "test", "baseline": "caption" not in sections, **sections}
        recipe = Recipe.parse(values, where="test")
        return Pipeline(STAGES, ResolvedRun(replace(settings, recipe=recipe)), log=lambda line: None)

    return make
