"""The contest's score and the spread over training seeds."""

import pytest

from bettersynth_assets.stages.compare import arm_stats, compare


def rows(**values: list[float]) -> list[dict[str, object]]:
    """Return accuracies per training seed, and a second metric for each benchmark."""
    return [
        {"seed": 3 + 2 * number, "benchmark": name, "metric": metric, "value": value, "n": 10}
        for name, given in values.items()
        for number, accuracy in enumerate(given)
        for metric, value in (("accuracy", accuracy), ("log_probability_per_token", -accuracy / 10))
    ]


def test_the_spread_is_the_sample_standard_deviation_and_one_seed_has_none():
    stats = arm_stats(rows(textvqa=[10.0, 14.0], mmbench=[4.0, 4.0]))
    assert stats["textvqa_mean"] == 12.0
    assert stats["textvqa_sd"] == pytest.approx(8**0.5)
    assert stats["mmbench_sd"] == 0.0
    assert arm_stats(rows(textvqa=[10.0]))["textvqa_sd"] is None


def test_every_metric_of_a_benchmark_has_mean_sd_and_n_and_the_first_is_the_headline():
    stats = arm_stats(rows(pope=[60.0, 70.0]))
    assert stats["metrics"] == {
        "pope": {
            "accuracy": {"mean": 65.0, "sd": pytest.approx(50**0.5), "n": 10},
            "log_probability_per_token": {"mean": -6.5, "sd": pytest.approx(0.5**0.5), "n": 10},
        }
    }
    assert stats["pope_mean"] == 65.0


def test_an_arm_is_compared_by_its_means_with_the_noise_of_both_arms():
    baseline = arm_stats(rows(textvqa=[9.0, 10.0, 11.0], mmbench=[10.0, 10.0, 10.0]))
    found = compare(rows(textvqa=[20.0, 10.0, 15.0], mmbench=[10.0, 10.0, 10.0]), baseline)
    assert found["kit_score"] == 1.25
    # TextVQA alone has noise: ¼ (25 / 3 / 10² + 15² / 3 / 10⁴).
    assert found["kit_score_se"] == pytest.approx(((25 / 3 / 100 + 225 / 3 / 10_000) / 4) ** 0.5)
    assert (found["baseline_textvqa_mean"], found["baseline_textvqa_sd"]) == (10.0, 1.0)
    assert "no_kit_score" not in found


def test_two_seeds_are_not_compared():
    three = arm_stats(rows(textvqa=[9.0, 10.0, 11.0], mmbench=[9.0, 10.0, 11.0]))
    found = compare(rows(textvqa=[20.0, 10.0], mmbench=[10.0, 11.0]), three)
    assert (found["kit_score"], found["kit_score_se"]) == (None, None)
    assert found["no_kit_score"] == "2 training seed(s) in mmbench; 3 are needed for each arm"


def test_a_subset_without_one_of_the_contests_benchmarks_has_no_score_but_a_reason():
    some = rows(textvqa=[20.0, 21.0, 22.0], pope=[60.0, 60.0, 60.0])
    found = compare(some, arm_stats(some))
    assert found["kit_score"] is None and found["no_kit_score"] == "mmbench is not evaluated"
    assert found["baseline_pope_mean"] == 60.0


def test_a_baseline_without_correct_answers_is_reported_with_the_benchmark():
    arm, nothing = rows(textvqa=[20.0] * 3, mmbench=[1.0] * 3), rows(textvqa=[20.0] * 3, mmbench=[0.0] * 3)
    found = compare(arm, arm_stats(nothing))
    assert found["kit_score"] is None
    assert found["no_kit_score"] == "the baseline has nothing right in mmbench, so there is no ratio to it"
