from __future__ import annotations

import pytest

from bettersynth_assets.images import decoding
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.rows import STATS, make_row
from bettersynth_assets.operators.sandbox import operator_environment
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import break_image, seed_table, tiny_profile

PROCESS = [
    {"image_watermark_filter": {"prob_threshold": 0.6}},
    {"image_nsfw_filter": {"hf_nsfw_model": None, "max_score": 0.9}},
]


@pytest.fixture
def built(tiny_models):
    folder = str(tiny_models.watermark)
    entries = [PROCESS[0], {"image_nsfw_filter": {**PROCESS[1]["image_nsfw_filter"], "hf_nsfw_model": folder}}]
    return build_operators(entries, tiny_profile(tiny_models))


@pytest.fixture
def rows(tmp_path):
    table = seed_table(tmp_path, 9)
    return [make_row({"clip_score": 0.3, **row}, tmp_path, with_score=True) for row in table.to_pylist()]


def test_stats_equal_those_of_data_juicers_operators(built, rows):
    with operator_environment():
        for operator in built:
            assert operator.measure(rows, []) == {}
            stat = spec_of(operator.name).classifier.stat
            theirs = [operator.operator.compute_stats_single({**row.sample, STATS: {}})[STATS][stat] for row in rows]
            assert [row.sample[STATS][stat] for row in rows] == [pytest.approx(values, abs=1e-6) for values in theirs]
            assert len({round(values[0], 4) for values in theirs}) > 3


def test_an_image_is_decoded_once_for_all_classifiers_and_a_broken_one_fails_alone(built, rows, tmp_path, monkeypatch):
    break_image(tmp_path, rows[4].values["image"])
    opened = []
    monkeypatch.setattr(decoding, "open_rgb", lambda path, real=decoding.open_rgb: opened.append(path) or real(path))
    with operator_environment():
        failed = built[0].measure(rows, built[1:])
        assert list(failed) == [4] and isinstance(failed[4], ImageError)
        left = [row for at, row in enumerate(rows) if at not in (4, 7)]
        assert built[1].measure(left, []) == {}
    assert len(opened) == 9 and all(not row.pixels for row in left)
    assert all("image_nsfw_score" in row.sample[STATS] for row in left)
