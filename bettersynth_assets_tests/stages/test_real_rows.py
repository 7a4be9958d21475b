"""Generated rows, and the 800 real ones if present: no row is lost, and headers and pixels are correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.images.opening import open_rgb
from bettersynth_assets_tests.helpers.drawn_seed import CHINESE, GREY, ROWS, SIDES, TWIN, caption, row, write_drawn_seed
from bettersynth_assets_tests.helpers.seeds import REAL_SEED, settings_for
from bettersynth_assets_tests.helpers.toy import all_rows, toy_pipeline

real = pytest.mark.skipif(not REAL_SEED.is_file(), reason="the real rows are not part of the project")


@pytest.fixture(scope="module", params=["drawn", pytest.param("real", marks=real)])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp(request.param)
    seed = REAL_SEED if request.param == "real" else write_drawn_seed(folder / "seed")
    return settings_for(seed, folder / "data", shards=7)


@pytest.mark.slow
def test_all_rows_are_kept_with_the_sizes_and_word_counts_of_the_contests_seed(settings: Settings) -> None:
    count = 800 if settings.profile.seed == str(REAL_SEED) else ROWS
    pipeline = toy_pipeline(settings)
    rows = all_rows(pipeline, "seed_dataset")
    assert (rows.num_rows, [item.lost for item in pipeline.ensure_all("seed_dataset")]) == (count, [0] * 7)
    assert sorted(rows["line"].to_pylist()) == list(range(1, count + 1))
    assert set(rows["mode"].to_pylist()) == {"RGB", "L"}
    words = rows["words"].to_numpy()
    assert (words.min(), words.max()) == (3, 23)
    assert min(rows["width"].to_numpy().min(), rows["height"].to_numpy().min()) == 336


@real
def test_word_counts_match_those_of_the_write_up(tmp_path: Path) -> None:
    words = all_rows(toy_pipeline(settings_for(REAL_SEED, tmp_path, shards=7)), "seed_dataset")["words"].to_numpy()
    # The third-place write-up has 10.79 and 3.52 over all 400,000 rows; this is a sample of them.
    assert words.mean() == pytest.approx(10.79, abs=0.25)
    assert words.std() == pytest.approx(3.52, abs=0.25)


def test_generated_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    seed = write_drawn_seed(tmp_path / "seed")
    found = all_rows(toy_pipeline(settings_for(seed, tmp_path / "data", shards=3)), "seed_dataset").to_pylist()
    rows = {row["line"] - 1: row for row in found}
    assert [rows[number]["id"] for number in range(ROWS)] == [row(number)["id"] for number in range(ROWS)]
    assert [rows[number]["caption"] for number in range(ROWS)] == [caption(number) for number in range(ROWS)]
    assert [(rows[number]["width"], rows[number]["height"]) for number in range(ROWS - 1)] == [
        SIDES[number % len(SIDES)] for number in range(ROWS - 1)
    ]
    assert {number for number, one in rows.items() if one["mode"] == "L"} == GREY
    assert [rows[number]["words"] for number in (0, 20, 21, CHINESE, TWIN)] == [3, 23, 3, 3, 3]
    assert rows[0]["image_hash"] == rows[TWIN]["image_hash"] != rows[1]["image_hash"]


def test_every_header_equals_what_pillow_reads(settings: Settings) -> None:
    for item in all_rows(toy_pipeline(settings), "seed_dataset").to_pylist():
        with Image.open(ResolvedRun(settings).image_root / item["image"]) as image:
            assert (item["width"], item["height"], item["mode"], item["format"]) == (
                *image.size,
                image.mode,
                image.format,
            )


def test_headers_agree_with_pixels_and_pixels_equal_pillows(settings: Settings) -> None:
    rows = all_rows(toy_pipeline(settings), "seed_dataset").to_pylist()
    for item in rows[:: len(rows) // 48]:
        path = ResolvedRun(settings).image_root / item["image"]
        image = open_rgb(path)
        assert image.size == (item["width"], item["height"])
        with Image.open(path) as plain:
            assert plain.mode == item["mode"]
            assert np.array_equal(np.asarray(image), np.asarray(plain.convert("RGB")))
