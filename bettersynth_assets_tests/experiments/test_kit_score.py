"""The contest's score with the noise of both arms."""

import numpy as np
import pytest

from bettersynth_assets.experiments.kit_score import (
    against_itself,
    kit_score,
    near_floor,
    why_no_score,
)

ARM = {"mmbench": np.array([20.0, 22.0, 24.0]), "textvqa": np.array([50.0, 60.0, 70.0])}
BASELINE = {"mmbench": np.array([9.0, 10.0, 11.0]), "textvqa": np.array([39.0, 40.0, 41.0])}


def test_the_score_and_its_standard_error_by_hand():
    found = kit_score(ARM, BASELINE)
    assert found.value == pytest.approx((22 / 10 + 60 / 40) / 2)
    # From the arm and the baseline: 4/300 and 484/30000 for MMBench, 1/48 and 3600/7680000 for TextVQA.
    assert found.se**2 == pytest.approx((4 / 300 + 484 / 30_000 + 1 / 48 + 3_600 / 7_680_000) / 4)
    assert found.df == pytest.approx(5.910, abs=1e-3)
    assert found.interval() == pytest.approx((1.5733, 2.1267), abs=1e-4)


def test_the_noise_of_the_baseline_widens_the_standard_error():
    noisy = BASELINE | {"mmbench": np.array([5.0, 10.0, 15.0])}
    assert kit_score(ARM, noisy).value == kit_score(ARM, BASELINE).value
    assert kit_score(ARM, noisy).se > 2.5 * kit_score(ARM, BASELINE).se


@pytest.mark.parametrize(
    ("arm", "baseline", "reason"),
    [
        ({"mmbench": ARM["mmbench"]}, BASELINE, "textvqa is not evaluated"),
        (ARM, BASELINE | {"textvqa": np.array([40.0])}, r"1 training seed\(s\) in textvqa; 3 are needed"),
        (ARM, BASELINE | {"mmbench": np.zeros(3)}, "the baseline has nothing right in mmbench"),
    ],
)
def test_no_score_without_noise_or_ratio(arm: dict[str, np.ndarray], baseline: dict[str, np.ndarray], reason: str):
    with pytest.raises(ValueError, match=reason):
        kit_score(arm, baseline)
    assert why_no_score(arm, baseline)


def test_a_baseline_near_chance_is_named():
    noisy = BASELINE | {"mmbench": np.array([4.0, 10.0, 16.0])}
    assert kit_score(ARM, noisy).near_floor == ("mmbench",)
    assert kit_score(ARM, BASELINE).near_floor == ()
    assert kit_score(ARM, BASELINE, chance={"textvqa": 38.0}).near_floor == ("textvqa",)
    assert near_floor(np.array([25.0, 26.0, 27.0]), 25.0) and not near_floor(np.array([25.0, 26.0, 27.0]), 20.0)
    assert not near_floor(np.array([25.0, 25.0]), 25.0)  # two runs do not show the spread


def test_the_baseline_against_itself_uses_each_pair_of_disjoint_sets():
    four = {"mmbench": np.array([1.0, 1.0, 3.0, 3.0]), "textvqa": np.array([2.0, 2.0, 2.0, 2.0])}
    assert sorted(against_itself(four)) == pytest.approx([(1 / 3 + 1) / 2, 1, 1, 1, 1, (3 + 1) / 2])
    assert len(against_itself({name: np.arange(1.0, 7.0) for name in four})) == 90
    with pytest.raises(ValueError, match="4 runs of the baseline: two sets of 3 need 6"):
        against_itself(four, size=3)
