from __future__ import annotations

import numpy as np
import pytest

from bettersynth_assets.errors import ConfigError, EmptySetError
from bettersynth_assets.operators.thresholds import last_tied_id, score_limits, top_count

SCORES = np.random.default_rng(7).normal(0.32, 0.04, 500).astype(np.float32)
WIDE = SCORES.astype(np.float64)


@pytest.mark.parametrize(
    ("arguments", "low", "high"),
    [
        ({}, WIDE.mean(), None),
        ({"method": "mean"}, WIDE.mean(), None),
        ({"method": "k_sigma"}, WIDE.mean() - 3 * WIDE.std(), WIDE.mean() + 3 * WIDE.std()),
        ({"method": "k_sigma", "k": 1.5}, WIDE.mean() - 1.5 * WIDE.std(), WIDE.mean() + 1.5 * WIDE.std()),
        ({"method": "percentile", "low": 10}, np.percentile(WIDE, 10), None),
        ({"method": "percentile", "high": 97.5}, None, np.percentile(WIDE, 97.5)),
        ({"method": "percentile", "low": 5, "high": 95}, np.percentile(WIDE, 5), np.percentile(WIDE, 95)),
        ({"method": "percentile", "low": 5, "high": 100}, np.percentile(WIDE, 5), None),
        ({"method": "percentile", "low": 0, "high": 95}, None, np.percentile(WIDE, 95)),
        ({"method": "top_k", "count": 100}, np.sort(WIDE)[-100], None),
        ({"method": "top_k", "share": 0.25}, np.sort(WIDE)[-125], None),
        ({"method": "top_k", "count": 10_000}, WIDE.min(), None),
        ({"method": "min", "min_score": 0.3}, 0.3, None),
        ({"method": "min", "min_score": 0.3, "max_score": 0.4}, 0.3, 0.4),
    ],
)
def test_each_method_gives_the_limits_of_its_definition(arguments, low, high):
    found = score_limits(arguments, SCORES)
    assert found == (pytest.approx(low) if low is not None else None, pytest.approx(high) if high is not None else None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "meen"}, "did you mean 'mean'"),
        ({"method": "mean", "k": 3}, "'k' does not go with method mean"),
        ({"method": "top_k"}, "either `count`"),
        ({"method": "top_k", "count": 5, "share": 0.1}, "either `count`"),
        ({"method": "top_k", "count": 0}, "keeps no row"),
        ({"method": "top_k", "share": 1.5}, "share = 1.5: must lie between 0 and 1"),
        ({"method": "percentile", "low": 90, "high": 10}, "not below"),
        ({"method": "percentile", "low": -1}, "must lie between 0 and 100"),
        ({"method": "min"}, "needs `min_score`"),
        ({"method": "min", "min_score": "0.3"}, "use a number"),
        ({"method": "k_sigma", "sigma": 2}, "'sigma' does not go"),
    ],
)
def test_invalid_arguments_are_named(arguments, says):
    with pytest.raises(ConfigError, match=says):
        score_limits(arguments, SCORES)


def test_limits_of_an_empty_seed_are_an_error_only_if_scores_are_needed():
    assert score_limits({"method": "min", "min_score": 0.1}, []) == (0.1, None)
    with pytest.raises(EmptySetError, match="at least one scored row"):
        score_limits({"method": "mean"}, [])


def test_top_k_keeps_exactly_k_rows_when_scores_tie_and_takes_the_smallest_ids():
    scores = np.array([0.5, 0.3, 0.3, 0.9, 0.3, 0.1], np.float32)
    ids = ["f", "e", "b", "a", "c", "d"]
    arguments = {"method": "top_k", "count": 4}
    low, _ = score_limits(arguments, scores)
    last = last_tied_id(arguments, scores, ids)
    kept = {row for row, score in zip(ids, scores, strict=True) if score > low or (score == low and row <= last)}
    assert kept == {"a", "f", "b", "c"}


def test_ties_are_not_cut_if_all_tied_rows_fit_or_another_method_is_used():
    scores = np.array([0.3, 0.3, 0.1], np.float32)
    assert last_tied_id({"method": "top_k", "count": 2}, scores, ["a", "b", "c"]) is None
    assert last_tied_id({"method": "mean"}, scores, ["a", "b", "c"]) is None


def test_a_share_is_rounded_half_up_to_at_least_one_row():
    assert [top_count({"share": share}, 10) for share in (0.01, 0.25, 0.349, 1.0)] == [1, 3, 3, 10]
