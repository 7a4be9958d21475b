"""Looks at a growing experiment: spending of the error rate and combined p-values."""

import numpy as np
import pytest
from scipy.special import ndtri

from bettersynth_assets.experiments.sequential import SPENDING, Looks, Spending

PUBLISHED = {
    2: [2.963, 1.969],
    3: [3.710, 2.511, 1.993],
    5: [4.877, 3.357, 2.680, 2.290, 2.031],
}
"""Two-sided boundaries at level 0.05 with equally spaced looks, as R's ldbounds and gsDesign print them."""


@pytest.mark.parametrize("looks", PUBLISHED)
def test_boundaries_are_the_published_ones(looks: int):
    levels = Looks(tuple(range(3, 3 * looks + 1, 3))).nominal_levels(0.05)
    assert -ndtri(levels / 2) == pytest.approx(PUBLISHED[looks], abs=6e-4)


@pytest.mark.parametrize("spending", SPENDING)
def test_the_whole_error_rate_is_spent_at_the_last_look(spending: Spending):
    assert SPENDING[spending](0.05, 1.0) == pytest.approx(0.05)
    assert 0 < SPENDING[spending](0.05, 1 / 3) < SPENDING[spending](0.05, 2 / 3) < 0.05
    assert Looks((5,), spending).nominal_levels(0.01) == pytest.approx([0.01], rel=1e-9)


def test_linear_spending_decides_earlier_and_obrien_and_flemings_later():
    early, late = Looks.planned(4, 4, 12, "linear"), Looks.planned(4, 4, 12)
    assert early.nominal_levels(0.05)[0] == pytest.approx(0.05 / 3)
    assert early.nominal_levels(0.05)[0] > 50 * late.nominal_levels(0.05)[0]
    assert early.nominal_levels(0.05)[2] < late.nominal_levels(0.05)[2]


@pytest.mark.parametrize("spending", SPENDING)
def test_random_walks_cross_the_boundaries_at_the_declared_rate(spending: Spending):
    looks = Looks((3, 4, 9, 10), spending)
    steps = np.random.default_rng(5).normal(size=(40_000, 10)).cumsum(axis=1)
    z = steps[:, [2, 3, 8, 9]] / np.sqrt(looks.counts)
    crossed = np.abs(z) >= -ndtri(looks.nominal_levels(0.1) / 2)
    assert crossed.any(axis=1).mean() == pytest.approx(0.1, abs=0.006)


@pytest.mark.parametrize("look", [0, 1, 2])
@pytest.mark.parametrize("level", [0.05, 0.0025, 3e-5])
@pytest.mark.parametrize("spending", SPENDING)
def test_a_p_value_on_the_boundary_of_a_level_becomes_that_level(look: int, level: float, spending: Spending):
    looks = Looks.planned(4, 4, 12, spending)
    p = np.ones(look + 1)
    p[look] = looks.nominal_levels(level)[look]
    combined, at = looks.p(p)
    assert combined == pytest.approx(level, rel=1e-3)
    assert at == look


def test_a_verdict_stays_when_a_later_look_is_weaker():
    looks = Looks((4, 8))
    early, _ = looks.p(np.array([1e-6]))
    later, at = looks.p(np.array([1e-6, 0.3]))
    assert (later, at) == (early, 0)


def test_a_single_look_changes_no_p_value():
    p = np.array([[0.2], [1e-14], [0.99]])
    assert np.array_equal(Looks((6,)).p(p)[0], p[:, 0])


def test_looks_are_planned_up_to_the_maximum():
    assert Looks.planned(4, 4, 12).counts == (4, 8, 12)
    assert Looks.planned(4, 4, 11).counts == (4, 8)
    assert Looks.planned(4, 4, 12).reached(11) == (4, 8)
    assert Looks.planned(4, 4, 12).reached(3) == ()


def test_looks_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="a look at 2 seeds: nothing is compared under 3"):
        Looks.planned(2, 2, 8)
    with pytest.raises(ValueError, match="seeds from 4 to 3 in steps of 1"):
        Looks.planned(4, 1, 3)
    with pytest.raises(ValueError, match="ascending"):
        Looks((4, 4))
    with pytest.raises(ValueError, match="spending 'all': use obrien_fleming or linear"):
        Looks((4, 8), "all")  # type: ignore[arg-type]
