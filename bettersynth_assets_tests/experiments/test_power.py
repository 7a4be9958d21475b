"""Smallest detectable differences and numbers of seeds."""

import numpy as np
import pytest
from scipy import stats

from bettersynth_assets.experiments.power import detectable_with, seeds_needed


def test_four_seeds_with_the_miniatures_noise():
    assert detectable_with(4, 7.1, 7.1, level=0.05) == pytest.approx(16.8, abs=0.05)
    assert detectable_with(4, 3.2, 3.2, level=0.05) == pytest.approx(7.6, abs=0.05)


@pytest.mark.parametrize("n", [3, 4, 12])
def test_a_test_detects_the_smallest_detectable_difference_four_times_in_five(n: int):
    shift = detectable_with(n, 5.0, 5.0, level=0.05) / (5.0 * np.sqrt(2 / n))
    power = stats.nct.sf(stats.t.ppf(0.975, 2 * n - 2), 2 * n - 2, shift)
    assert power == pytest.approx(0.8, abs=0.015)


def test_the_seeds_needed_are_the_fewest_that_detect_the_difference():
    n = seeds_needed(4.0, 7.0, 3.0, level=0.05)
    assert n is not None
    assert detectable_with(n, 7.0, 3.0, level=0.05) <= 4.0 < detectable_with(n - 1, 7.0, 3.0, level=0.05)
    assert seeds_needed(-4.0, 7.0, 3.0, level=0.05) == n
    assert seeds_needed(4.0, 7.0, 3.0, level=0.05 / 20) > n


def test_a_difference_that_no_number_of_seeds_detects():
    assert seeds_needed(0.0, 7.0, 7.0, level=0.05) is None
    assert seeds_needed(0.01, 7.0, 7.0, level=0.05) is None


def test_paired_seeds_are_one_sample_of_differences():
    n, df = 6, 5
    expected = (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * 4.0 / np.sqrt(n)
    assert detectable_with(n, 4.0, 0.0, level=0.05) == pytest.approx(expected)
