"""Holm's correction."""

import numpy as np
import pytest

from bettersynth_assets.experiments.family import holm


def test_the_smallest_p_value_counts_times_the_family_and_the_order_is_kept():
    # 0.005 · 4, 0.01 · 3, 0.03 · 2; 0.04 · 1 is raised to the value before it.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_adjusted_values_stay_under_one_and_ties_are_equal():
    assert holm(np.array([0.6, 0.02, 0.7, 0.02])) == pytest.approx([1.0, 0.08, 1.0, 0.08])
    assert holm(np.array([0.03])) == pytest.approx([0.03])


def test_each_row_is_a_family():
    rows = np.random.default_rng(0).uniform(size=(4, 5))
    assert np.array_equal(holm(rows), [holm(row) for row in rows])
