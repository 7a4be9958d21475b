"""A recipe reuses what another one has built under the same key, and owns its copy."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets_tests.helpers.seeds import settings_for


class TwoRecipes:
    """A stage per shard that both recipes build alike, with a memo, and one whose output has the recipe's budget."""

    def __init__(self, root: Path) -> None:
        settings = settings_for(root / "none.jsonl", root / "data", shards=2)
        self.settings = {name: renamed(settings, name) for name in ("first", "second")}
        self.runs: list[str] = []

    def pipeline(self, recipe: str) -> Pipeline:
        return Pipeline([self.alike(), self.different()], ResolvedRun(self.settings[recipe]), log=self.runs.append)

    def alike(self) -> Stage:
        def run(work: Work) -> Result:
            self.runs.append(f"{work.settings.recipe.name} alike {work.shard[-1]}")
            table = pa.table({"value": [int(work.shard[-1])]})
            work.memo("captions", "a" * 64, lambda stored: table)
            (work.folder / "images").mkdir()
            (work.folder / "images" / "one.txt").write_text("one")
            return Result(rows_in=1, kept=table, files=("images/one.txt",))

        return Stage(name="alike", version=1, run=run, depends=nothing, sharded=True)

    def different(self) -> Stage:
        def run(work: Work) -> Result:
            self.runs.append(f"{work.settings.recipe.name} different")
            return Result(rows_in=2, kept=work.rows("alike"))

        def name(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
            return run.recipe.name

        return Stage(name="different", version=1, run=run, depends=name, sharded=False, inputs=("alike",))


def nothing(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    return None


def renamed(settings: Settings, name: str) -> Settings:
    return replace(settings, recipe=settings.recipe.model_copy(update={"name": name}))


@pytest.fixture
def two(tmp_path: Path) -> TwoRecipes:
    two = TwoRecipes(tmp_path)
    two.pipeline("first").ensure("different")
    assert two.runs == ["first alike 0", "first alike 1", "first different"]
    two.runs.clear()
    return two


def test_equal_keys_are_copied_and_others_are_built(two: TwoRecipes) -> None:
    pipeline = two.pipeline("second")
    pipeline.ensure("different")
    built = [line for line in two.runs if "copied" not in line]
    assert built == ["second different"] and len(two.runs) == 3
    assert [manifest.stage for manifest in pipeline.materialized] == ["alike", "alike", "different"]
    for shard in pipeline.shards("alike"):
        first, second = (two.pipeline(name).ensure("alike", shard) for name in two.settings)
        assert (first.digest, first.files, first.memos) == (second.digest, second.files, second.memos)
        assert first.path != second.path and not second.faults()
        assert all((second.path.parent / memo).is_file() for memo in second.memos)


def test_a_copy_does_not_need_the_original(two: TwoRecipes) -> None:
    two.pipeline("second").ensure("different")
    shutil.rmtree(two.settings["first"].recipe_root)
    two.runs.clear()
    assert two.pipeline("second").ensure("different").kept == 2
    assert two.runs == []


def test_a_damaged_version_is_not_copied(two: TwoRecipes) -> None:
    damaged = two.pipeline("first").ensure("alike", "shard-00000")
    (damaged.path / "images" / "one.txt").write_text("two")
    two.runs.clear()
    two.pipeline("second").ensure("alike", "shard-00000")
    assert two.runs == ["second alike 0"]
