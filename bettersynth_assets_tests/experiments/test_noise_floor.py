"""The measured noise floor of the miniature: five arms, six training seeds each."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bettersynth_assets.experiments.comparison import Scores
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.kit_score import against_itself
from bettersynth_assets.experiments.seeds import welch
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms
from bettersynth_assets_tests.helpers.paths import EVALUATION_GOLDEN

FILE = EVALUATION_GOLDEN / "miniature_noise_floor.json"
ARMS = ("baseline", "third_place", "clip_top_k", "clean_synth_clean", "low_score_recaption")
measured = pytest.mark.skipif(not FILE.is_file(), reason="the measured values are not on this machine")


def scores() -> Scores:
    return {
        arm: {name: {int(seed): value for seed, value in runs.items()} for name, runs in by_name.items()}
        for arm, by_name in json.loads(FILE.read_text("utf-8")).items()
    }


@pytest.fixture(scope="module")
def table():
    declared = Declaration(baseline="baseline", benchmarks=("textvqa", "mmbench"), looks=Looks((6,)), margin=2.0)
    found = scores()
    return compare_arms({arm: found[arm] for arm in ARMS}, declared)


@measured
def test_means(table):
    found = {arm: tuple(round(mean.mean, 2) for mean in table.means if mean.arm == arm) for arm in ARMS}
    assert found == {
        "baseline": (37.11, 10.04),
        "third_place": (58.83, 49.75),
        "clip_top_k": (59.11, 49.46),
        "clean_synth_clean": (56.39, 49.25),
        "low_score_recaption": (49.14, 47.08),
    }


@measured
def test_kit_scores_and_the_standard_error_with_the_baselines_noise(table):
    assert [round(table.kit_scores[arm].value, 4) for arm in ARMS[1:]] == [3.2698, 3.2591, 3.2120, 3.0064]
    assert table.kit_scores["third_place"].se == pytest.approx(0.522, abs=0.01)
    assert all(score.near_floor == ("mmbench",) for score in table.kit_scores.values())


@measured
def test_every_recipe_is_better_than_random_rows_and_no_two_recipes_can_be_told_apart(table):
    with_baseline = [one for one in table.comparisons if one.other == "baseline"]
    others = [one for one in table.comparisons if one.other != "baseline"]
    assert [one.verdict.word.value for one in with_baseline] == ["better"] * 8
    assert [one.verdict.word.value for one in others] == ["indistinguishable"] * 12
    assert table.group_of_best("mmbench") == ("third_place", "clip_top_k", "clean_synth_clean", "low_score_recaption")


@measured
def test_the_verdicts_are_the_same_if_the_two_kinds_of_comparison_are_families_of_their_own():
    found = {arm: scores()[arm] for arm in ARMS}
    declared = {"benchmarks": ("textvqa", "mmbench"), "looks": Looks((6,))}
    only = compare_arms(found, Declaration(baseline="baseline", pairs="baseline", **declared))
    assert {one.verdict.word.value for one in only.comparisons} == {"better"}
    recipes = {arm: found[arm] for arm in ARMS[1:]}
    pairs = compare_arms(recipes, Declaration(baseline="third_place", **declared))
    assert len(pairs.comparisons) == 12
    assert {one.verdict.word.value for one in pairs.comparisons} == {"indistinguishable"}


@measured
def test_the_baseline_against_itself():
    baseline = {name: np.array(list(runs.values())) for name, runs in scores()["baseline"].items()}
    found = against_itself(baseline)
    assert len(found) == 90
    assert (round(found.min(), 3), round(found.max(), 3)) == (0.623, 1.874)


@measured
def test_two_seeds_where_resampling_is_certain():
    a, b = (np.array([scores()[arm]["textvqa"][seed] for seed in (0, 1)]) for arm in ("low_score_recaption", "rep_500"))
    assert a.max() < b.min(), "any resample of b is above any of a, so a percentile bootstrap gives p = 0.0000"
    assert welch(a, b).p() == pytest.approx(0.21, abs=0.005)


@pytest.mark.slow
def test_the_statistics_load_nothing_heavy():
    code = (
        "import sys, bettersynth_assets.experiments.table, bettersynth_assets.experiments.bootstrap\n"
        "print(*sorted({'dagster', 'torch', 'pandas', 'scipy.stats', 'scipy.optimize', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
