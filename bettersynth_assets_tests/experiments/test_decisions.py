"""Decision accuracy on scores for which the share of pairs ordered alike is known."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import ndtr

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.decisions import MEAN, Decision, as_csv, as_json, as_markdown, decision_accuracy


def runs(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def by_size(scores: dict[str, dict[int, float]], sizes: tuple[int, ...] = (1, 2, 4)) -> dict[int, Decision]:
    found = decision_accuracy({arm: {"b": values} for arm, values in scores.items()}, ["b"], sizes=sizes)
    return {row.seeds: row for row in found.rows}


def test_arms_that_do_not_overlap_are_always_ordered_alike() -> None:
    rows = by_size({"low": runs(*range(8)), "mid": runs(*range(10, 18)), "high": runs(*range(20, 28))})
    assert [(size, row.reference, row.alike, row.lowest, row.shared) for size, row in rows.items()] == [
        (1, 4, 1, 1, 1), (2, 4, 1, 1, 1), (4, 4, 1, 1, 1),
    ]  # fmt: skip


def test_equal_arms_are_ordered_by_chance_or_less() -> None:
    same = runs(*np.random.default_rng(0).normal(size=8))
    rows = by_size({"one": same, "other": dict(same)})
    # Disjoint halves of equal arms: the halves of an arm have opposite deviations, so less than half is alike.
    assert rows[4].alike < 0.5
    assert by_size({"one": runs(*[1.0] * 8), "other": runs(*[1.0] * 8)})[2].alike == 0.5  # coin tosses


def test_two_runs_against_two_by_hand() -> None:
    # One run of each arm against the other: 0 or 3 against 2. Equal in order if both runs of "a" are on one side of 2.
    rows = by_size({"a": runs(0, 3), "b": runs(2, 2)}, (1,))
    assert (rows[1].reference, rows[1].alike) == (1, 0.0)
    rows = by_size({"a": runs(0, 1), "b": runs(2, 2)}, (1,))
    assert rows[1].alike == 1.0


def test_the_share_is_that_of_normal_noise_with_a_known_difference() -> None:
    difference, sd, arms, n = 1.0, 1.5, 400, 12
    random = np.random.default_rng(1)
    found: dict[int, list[float]] = {}
    shared: dict[int, list[float]] = {}
    for _ in range(arms):
        a, b = random.normal(difference, sd, n), random.normal(0, sd, n)
        scores = {"a": {"b": runs(*a)}, "b": {"b": runs(*b)}}
        for row in decision_accuracy(scores, ["b"], draws=40).rows:
            found.setdefault(row.seeds, []).append(row.alike)
            shared.setdefault(row.seeds, []).append(row.shared)
    for size, values in found.items():
        right, reference = (float(ndtr(difference / (sd * (2 / k) ** 0.5))) for k in (size, 8))
        expected = right * reference + (1 - right) * (1 - reference)
        assert np.mean(values) == pytest.approx(expected, abs=0.03), size
        assert np.mean(shared[size]) > np.mean(values)
    assert np.mean(found[1]) < np.mean(found[2]) < np.mean(found[4])


def test_all_arms_count_with_the_runs_of_the_shortest_and_several_benchmarks_have_a_mean() -> None:
    scores = {
        "a": {"x": runs(1, 2, 3, 4, 5), "y": runs(9, 9, 9, 9, 9)},
        "b": {"x": runs(11, 12, 13), "y": runs(5, 5, 5, 99)},
        "c": {"x": runs(21, 22, 23), "y": runs(2, 2, 2)},
    }
    found = decision_accuracy(scores, ["x", "y"])
    assert (found.arms, found.runs, found.pairs) == (("a", "b", "c"), 3, 3)
    assert [(row.measure, row.seeds, row.reference) for row in found.rows] == [
        (name, size, 1) for name in ("x", "y", MEAN) for size in (1, 2)
    ]
    assert {row.alike for row in found.rows} == {1.0}  # the run with 99 takes no part
    assert decision_accuracy(scores, ["x", "y"]) == found
    assert json.loads(as_json(found))["rows"][0] == asdict(found.rows[0])
    assert as_csv(found).splitlines()[1].startswith("x,1,1,1.0,1.0,")
    text = as_markdown(found)
    assert "| mean | 2 | 100.0% | 100.0% | 100.0% |" in text and "3 pairs of 3 arms with 3 runs each" in text


@pytest.mark.parametrize("scores", [{"a": runs(1, 2)}, {"a": runs(1, 2), "b": runs(1)}])
def test_without_a_pair_or_a_run_for_the_reference_there_is_no_figure(scores: dict[str, dict[int, float]]) -> None:
    with pytest.raises(ConfigError, match="decision accuracy needs two arms with more runs than 1 each"):
        by_size(scores)
