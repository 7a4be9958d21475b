"""The splits ``tune`` and ``report`` have the same formats and no scene in common."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bettersynth_assets.config.world_paths import BENCHMARK_FILES, WorldPaths
from bettersynth_assets.miniature.gqa_set import gqa_finetune_rows
from bettersynth_assets.miniature.question_sets import finetune_rows
from bettersynth_assets.miniature.splits import REPORT, TUNE, QuestionSizes, report_rows, tune_rows
from bettersynth_assets.miniature.world import scene_from_json
from bettersynth_assets_tests.helpers.small_world import SIZES
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.benchmarks.protocol import Options

MANY = QuestionSizes(textvqa=300, mmbench=200, mme=20, pope=60, gqa=200)


@pytest.mark.slow
def test_no_scene_of_report_has_the_content_of_another_set(small_world: WorldPaths) -> None:
    tune = tune_rows(MANY, 3)
    report = report_rows(MANY, 3, 1, tune)
    second = report_rows(MANY, 3, 2, tune)
    seed = {scene_from_json(row["scene"]).content() for row in pq.read_table(small_world.truth).to_pylist()}
    finetune = {scene.content() for _, scene in (*finetune_rows(300, 4), *gqa_finetune_rows(300, 10))}
    assert not report.contents & (tune.contents | seed | finetune)
    assert not second.contents & (tune.contents | report.contents | seed | finetune)
    # Without the exclusion, the two would share contents: simple scenes are drawn often.
    assert tune_rows(MANY, 3 + 1000).contents & tune.contents


def test_report_is_larger_except_for_the_two_yes_no_sets() -> None:
    for name in ("textvqa", "mmbench", "gqa"):
        assert getattr(REPORT, name) == 1.5 * getattr(TUNE, name)
    assert (REPORT.mme, REPORT.pope) == (TUNE.mme, TUNE.pope)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["tune", "report"])
@pytest.mark.parametrize("name", BENCHMARK_FILES)
def test_the_benchmarks_read_both_splits(small_world: WorldPaths, name: str, split: str) -> None:
    csv.field_size_limit(sys.maxsize)
    questions = BENCHMARKS.get(name).read(small_world.benchmark(name, split) or {}, Options())
    sizes = getattr(SIZES, split)
    if name in ("textvqa", "gqa"):
        assert len(questions.rows) == getattr(sizes, name)
    assert questions.rows and all(not isinstance(row.image, Path) or row.image.is_file() for row in questions.rows)


def test_files_of_report_hold_the_drawn_questions(small_world: WorldPaths) -> None:
    rows = report_rows(SIZES.report, 3, 1, tune_rows(SIZES.tune, 3))
    lines = small_world.split("report").textvqa_questions.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [row for row, _, _ in rows.textvqa]
    assert json.loads(small_world.split("report").gqa_questions.read_text()) == rows.gqa[0]
