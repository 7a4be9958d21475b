"""seed_profile: the figures, and plots that outliers do not ruin."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.errors import EmptySetError
from bettersynth_assets.records.distribution import describe
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import score_of, toy_pipeline

ANY_SHARE = Limits(max_quarantined_share=1)


def test_the_statistics_equal_those_computed_by_hand() -> None:
    values = [0.1, 0.25, 0.3, 0.31, 0.5]
    found = describe(values)
    mean, sd = statistics.fmean(values), statistics.pstdev(values)
    assert found["mean"] == pytest.approx(mean)
    assert found["sd"] == pytest.approx(sd)
    assert found["k_sigma"] == pytest.approx([mean - 3 * sd, mean + 3 * sd])
    assert (found["rows"], found["min"], found["max"]) == (5, 0.1, 0.5)
    assert found["percentiles"]["50"] == pytest.approx(0.3)
    assert found["percentiles"]["25"] == pytest.approx(0.25)


def test_one_huge_image_does_not_stretch_the_histogram_and_is_still_counted() -> None:
    widths = np.random.default_rng(0).integers(336, 768, 1000)
    widths[17] = 12192
    found = describe(widths)
    counts, edges = found["histogram"]["counts"], found["histogram"]["edges"]
    assert edges[-1] < 800
    assert sum(counts) == 1000
    assert min(counts) > 20
    assert found["max"] == 12192
    assert found["outliers"]["above"] >= 1


def test_integers_get_bins_of_equal_integer_width() -> None:
    edges = np.asarray(describe(list(range(3, 24)) * 10)["histogram"]["edges"])
    assert len(edges) <= 21
    assert set(np.diff(edges)) == {2.0}
    assert set(edges % 1) == {0.5}


@pytest.mark.parametrize("values", [[0.3], [7], [7, 7, 7], [0.3] * 9, [-1.0, 1.0], list(range(100_000))])
def test_all_values_are_counted_in_at_most_twenty_bins(values: list[float]) -> None:
    found = describe(values)["histogram"]
    assert sum(found["counts"]) == len(values)
    assert len(found["edges"]) == len(found["counts"]) + 1 <= 21
    assert found["edges"] == sorted(set(found["edges"]))


def test_plots_do_not_depend_on_the_order_of_rows() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.04, 500)
    one, other = describe(values), describe(np.sort(values))
    assert one["histogram"] == other["histogram"]
    assert one["percentiles"] == other["percentiles"]
    assert one["mean"] == pytest.approx(other["mean"], abs=1e-15)


def test_all_shards_are_measured_together_and_every_score_is_kept(tmp_path: Path) -> None:
    write_images(tmp_path, range(11))
    path = write_lines(tmp_path, [kit_row(number) for number in range(11)])
    manifest = toy_pipeline(settings_for(path, tmp_path / "data", shards=3)).ensure("seed_profile")
    ids = [f"{number:03d}" for number in range(11)]
    assert manifest.stats["rows"] == 11
    assert manifest.stats["clip_score"]["mean"] == pytest.approx(statistics.fmean(map(score_of, ids)), abs=1e-6)
    assert manifest.stats["width"]["mean"] == 40
    assert manifest.table()["measure"].to_pylist() == ["clip_score", "words", "width", "height"]
    scores = pq.read_table(manifest.path / "scores.parquet").to_pylist()
    assert {row["id"]: row["clip_score"] for row in scores} == pytest.approx({key: score_of(key) for key in ids})


def test_the_error_for_a_seed_without_usable_rows_gives_the_reasons(tmp_path: Path) -> None:
    path = write_lines(tmp_path, [kit_row(number) for number in range(5)])
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / f"images/{number:03d}.jpg").write_bytes(b"")
    with pytest.raises(EmptySetError, match=r"no rows are left of 5\. quarantine decode_error of seed_dataset"):
        toy_pipeline(settings_for(path, tmp_path / "data", shards=2, limits=ANY_SHARE)).ensure("seed_profile")
