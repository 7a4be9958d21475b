"""Differences over training seeds: Welch's test, paired runs, and equivalence."""

import numpy as np
import pytest
from scipy import stats

from bettersynth_assets.experiments.seeds import paired, welch

SMALL, LARGE = np.array([1.0, 2.0, 3.0]), np.array([4.0, 6.0, 8.0])


def test_the_difference_of_two_arms_by_hand():
    found = welch(SMALL, LARGE)  # variances of the means: 1/3 and 4/3
    assert found.estimate == -4
    assert found.se**2 == pytest.approx(5 / 3)
    assert found.df == pytest.approx(50 / 17)


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 8), (6, 4)])
def test_p_value_and_interval_are_those_of_scipys_welch_test(n_a: int, n_b: int):
    random = np.random.default_rng(n_a)
    a, b = random.normal(50, 7, n_a), random.normal(45, 2, n_b)
    found, known = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert found.p() == pytest.approx(known.pvalue, rel=1e-12)
    assert found.interval(0.05) == pytest.approx(tuple(known.confidence_interval(0.95)), rel=1e-12)


def test_the_equivalence_test_is_the_larger_of_two_one_sided_welch_tests():
    a, b = np.array([50.0, 51.0, 49.5, 50.5]), np.array([50.2, 50.1, 51.3])
    above = stats.ttest_ind(a + 2, b, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(a - 2, b, equal_var=False, alternative="less").pvalue
    assert welch(a, b).p_equivalent(2.0) == pytest.approx(max(above, below), rel=1e-12)
    assert welch(a, b).p_equivalent(0.1) > 0.05 > welch(a, b).p_equivalent(2.0)


def test_a_difference_beyond_the_margin_is_not_equivalent():
    assert welch(SMALL, LARGE).p_equivalent(3.0) > 0.5
    with pytest.raises(ValueError, match="a margin of 0 cannot be tested"):
        welch(SMALL, LARGE).p_equivalent(0)


def test_paired_runs_are_tested_by_their_differences():
    a, b = np.array([50.0, 61.0, 40.0, 55.0]), np.array([48.0, 58.5, 39.0, 51.0])
    known = stats.ttest_rel(a, b)
    assert paired(a, b).p() == pytest.approx(known.pvalue, rel=1e-12)
    assert paired(a, b).df == 3
    assert paired(a, b).p() < 0.05 < welch(a, b).p(), "equal seeds made equal noise"
    with pytest.raises(ValueError, match="4 and 3 runs cannot be paired"):
        paired(a, b[:3])


def test_arms_without_any_spread_differ_for_sure_or_not_at_all():
    constant = np.full(3, 12.5)
    assert welch(constant, constant).p() == 1
    assert welch(constant, constant + 1).p() == 0
    assert welch(constant, constant + 1).interval(0.05) == (-1, -1)
    assert welch(constant, constant).p_equivalent(2.0) == 0


def test_many_comparisons_at_once_are_those_one_by_one():
    random = np.random.default_rng(1)
    a, b = random.normal(size=(5, 2, 4)), random.normal(size=(5, 2, 6))
    together = welch(a, b)
    assert together.p().shape == (5, 2)
    assert together.p()[3, 1] == welch(a[3, 1], b[3, 1]).p()


def test_one_run_gives_no_spread():
    with pytest.raises(ValueError, match=r"1 training run\(s\) give no spread: train at least 2"):
        welch(np.array([1.0]), LARGE)


def test_resampling_two_seeds_looks_certain_where_welch_does_not():
    a, b = np.array([50.0, 48.0]), np.array([70.0, 59.0])
    random = np.random.default_rng(0)
    resampled = random.choice(b, (10_000, 2)).mean(axis=1) - random.choice(a, (10_000, 2)).mean(axis=1)
    assert np.mean(resampled <= 0) == 0.0
    assert welch(a, b).p() > 0.2
