"""The 800 real rows beside the project, where they are: nothing is lost, and the figures are those of the write-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bettersynth_assets.records.images import open_rgb
from bettersynth_assets.records.seed_path import image_root
from bettersynth_assets_tests.seeds import REAL_SEED, settings_for
from bettersynth_assets_tests.stages.toy import all_rows, toy_pipeline

pytestmark = pytest.mark.skipif(not REAL_SEED.is_file(), reason="the real rows are not part of the project")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


def test_all_rows_pass_and_sizes_and_words_are_those_of_the_contests_seed(data: Path) -> None:
    pipeline = toy_pipeline(settings_for(REAL_SEED, data, shards=7))
    rows = all_rows(pipeline, "seed_dataset")
    assert (rows.num_rows, [item.lost for item in pipeline.ensure_all("seed_dataset")]) == (800, [0] * 7)
    assert sorted(rows["line"].to_pylist()) == list(range(1, 801))
    assert set(rows["mode"].to_pylist()) == {"RGB", "L"}
    words, width = rows["words"].to_numpy(), rows["width"].to_numpy()
    # The third-place write-up has 10.79 and 3.52, 3 to 23, over all 400,000 rows; this is a sample of them.
    assert (words.min(), words.max()) == (3, 23)
    assert words.mean() == pytest.approx(10.79, abs=0.25)
    assert words.std() == pytest.approx(3.52, abs=0.25)
    assert min(width.min(), rows["height"].to_numpy().min()) == 336


def test_every_header_is_the_one_that_pillow_reads(data: Path) -> None:
    for row in all_rows(toy_pipeline(settings_for(REAL_SEED, data, shards=7)), "seed_dataset").to_pylist():
        with Image.open(REAL_SEED.parent / row["image"]) as image:
            assert (row["width"], row["height"], row["mode"], row["format"]) == (*image.size, image.mode, image.format)


def test_header_and_pixels_agree_and_pixels_are_pillows_own(data: Path) -> None:
    settings = settings_for(REAL_SEED, data, shards=7)
    for row in all_rows(toy_pipeline(settings), "seed_dataset").to_pylist()[::16]:
        path = image_root(settings) / row["image"]
        image = open_rgb(path)
        assert image.size == (row["width"], row["height"])
        with Image.open(path) as plain:
            assert plain.mode == row["mode"]
            assert np.array_equal(np.asarray(image), np.asarray(plain.convert("RGB")))
