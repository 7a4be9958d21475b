"""The contest's score and the spread over training seeds."""

import pytest

from bettersynth_assets.stages.arms import arm_stats, compare, kit_score


def test_the_score_is_the_mean_of_the_two_ratios():
    assert kit_score(44.0, 26.0, textvqa_base=40.0, mmbench_base=13.0) == 1.55
    assert kit_score(40.0, 13.0, textvqa_base=40.0, mmbench_base=13.0) == 1.0


def test_the_score_is_cut_and_not_rounded():
    assert kit_score(1.99999, 1.99999, textvqa_base=1.0, mmbench_base=1.0) == 1.9999
    assert kit_score(1.2345, 1.2345, textvqa_base=1.0, mmbench_base=1.0) == 1.2345


def test_a_baseline_with_nothing_right_gives_no_score():
    assert kit_score(40.0, 13.0, textvqa_base=40.0, mmbench_base=0.0) is None


def test_spread_is_the_sample_deviation_and_one_seed_has_none():
    rows = [{"seed": 0, "textvqa": 10.0, "mmbench": 4.0}, {"seed": 1, "textvqa": 14.0, "mmbench": 4.0}]
    stats = arm_stats(rows)
    assert stats["textvqa_mean"] == 12.0
    assert stats["textvqa_sd"] == pytest.approx(8**0.5)
    assert stats["mmbench_sd"] == 0.0
    assert arm_stats(rows[:1])["textvqa_sd"] is None


def test_an_arm_is_compared_by_its_means_and_spreads_over_its_seeds():
    rows = [{"seed": 3, "textvqa": 20.0, "mmbench": 10.0}, {"seed": 5, "textvqa": 10.0, "mmbench": 10.0}]
    baseline = arm_stats([{"seed": 0, "textvqa": 10.0, "mmbench": 10.0}])
    found = compare(rows, baseline)
    assert found["kit_score"] == 1.25
    assert found["kit_score_per_seed"] == {"3": 1.5, "5": 1.0}
    assert found["kit_score_sd"] == 0.3536
    assert (found["baseline_textvqa_mean"], found["baseline_textvqa_sd"]) == (10.0, None)
