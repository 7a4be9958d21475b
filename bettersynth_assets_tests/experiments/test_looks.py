"""Seeds are added to the arms of comparisons without a verdict, look by look."""

from __future__ import annotations

import numpy as np

from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.looks import seeds_wanted, undecided
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms

DECLARED = Declaration(baseline="baseline", benchmarks=("textvqa",), looks=Looks((4, 8, 12), "linear"))
MEANS = {"baseline": 40.0, "clear": 90.0, "like_clear": 90.1}


def judged(runs: dict[str, int]) -> tuple[Comparison, ...]:
    """Compare arms whose values scatter with sd 1 around ``MEANS``; the first two are far apart."""
    noise = {arm: np.random.default_rng(at).normal(size=12) for at, arm in enumerate(MEANS)}
    scores = {
        arm: {"textvqa": {seed: MEANS[arm] + float(noise[arm][seed]) for seed in range(count)}}
        for arm, count in runs.items()
    }
    return compare_arms(scores, DECLARED).comparisons


def test_the_first_look_is_completed_first() -> None:
    runs = {"baseline": 4, "clear": 0, "like_clear": 3}
    assert seeds_wanted(judged(runs), runs, DECLARED) == {"baseline": 4, "clear": 4, "like_clear": 4}


def test_only_arms_without_a_verdict_get_more_seeds_until_the_last_look() -> None:
    runs, history = dict.fromkeys(MEANS, 0), []
    for _ in range(5):
        comparisons = judged(runs)
        wanted = seeds_wanted(comparisons, runs, DECLARED)
        history.append(wanted)
        if wanted == runs:
            break
        runs = wanted
    assert history == [
        {"baseline": 4, "clear": 4, "like_clear": 4},
        {"baseline": 4, "clear": 8, "like_clear": 8},
        {"baseline": 4, "clear": 12, "like_clear": 12},
        {"baseline": 4, "clear": 12, "like_clear": 12},
    ]
    assert undecided(comparisons) == 1 and comparisons[-1].verdict.word == "indistinguishable"


def test_more_runs_than_wanted_are_no_reason_to_stop_early() -> None:
    runs = {"baseline": 6, "clear": 6, "like_clear": 6}  # a look at 4; the next one needs 2 more
    assert seeds_wanted(judged(runs), runs, DECLARED) == {"baseline": 6, "clear": 8, "like_clear": 8}
