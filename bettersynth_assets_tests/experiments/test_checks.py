"""Checks that tell whether an experiment's comparisons can be trusted."""

from __future__ import annotations

from bettersynth_assets.experiments.checks import (
    DESCRIPTIONS,
    aa_contains_one,
    budget_equal,
    enough_seeds,
    not_tuned_on_report,
    tokens_reported,
)
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts, Leaderboard, leaderboard
from bettersynth_assets.experiments.sequential import Looks
from bettersynth_assets.experiments.table import compare_arms


def runs(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def board(count: int) -> Leaderboard:
    declared = Declaration(baseline="baseline", benchmarks=("textvqa",), looks=Looks((4,)))
    scores = {"baseline": {"textvqa": runs(1, 2, 3, 4)}, "one": {"textvqa": runs(*range(count))}}
    facts = {arm: ArmFacts(arm=arm) for arm in scores}
    return leaderboard("mine", compare_arms(scores, declared), declared, facts)


def test_an_arm_with_fewer_seeds_than_the_first_look_is_named() -> None:
    assert enough_seeds(board(4)).passed
    few = enough_seeds(board(3))
    assert not few.passed and few.summary == "the first look needs 4 seeds per arm; one has 3"


def test_two_halves_of_the_baseline_that_differ_are_reported() -> None:
    alike = {"textvqa": runs(38, 41, 35, 40, 36, 33), "mmbench": runs(19, 12, 10, 7, 7, 5)}
    assert aa_contains_one(alike, 0.95).passed
    apart = {name: runs(10, 20, 11, 21, 10, 20) for name in alike}
    found = aa_contains_one(apart, 0.95)
    assert not found.passed and found.summary.startswith("kit score of the baseline against itself 0.508 [0.4")


def test_the_baseline_is_not_judged_with_too_few_runs() -> None:
    found = aa_contains_one({"textvqa": runs(1, 2, 3, 4, 5), "mmbench": runs(1, 2, 3, 4, 5)}, 0.95)
    assert found.passed and found.summary == (
        "not judged: 6 runs of the baseline with mmbench and textvqa are needed, there are 5"
    )


def test_another_number_of_exposures_must_be_declared() -> None:
    exposures = {"baseline": [4000, 4000], "same": [4000], "half": [2000]}
    assert budget_equal(exposures, "baseline", ["half"]).passed
    found = budget_equal(exposures, "baseline", [])
    assert not found.passed and found.summary == "exposures of the baseline: 4000; half: 2000"


def test_runs_without_tokens_are_counted_by_arm() -> None:
    assert tokens_reported({"a": [5, 6], "b": [7]}).passed
    found = tokens_reported({"a": [5, None], "b": [0]})
    assert not found.passed and found.summary == "3 runs; runs without tokens: a: 1, b: 1"


def test_a_choice_by_scores_of_the_report_fails_and_one_by_those_of_tune_does_not() -> None:
    assert not_tuned_on_report("report", None, []).passed
    assert not_tuned_on_report("tune", "run a", ["a, b, c: values"]).passed
    found = not_tuned_on_report("report", "run a with x = 1, and now x = 2", ["a, b, c: values 1, 2, 3 of k in r"])
    assert not found.passed and "run a with x = 1, and now x = 2; a, b, c: values 1, 2, 3 of k in r; " in found.summary
    assert not not_tuned_on_report("report", None, ["a, b, c: values 1, 2, 3 of k in r"]).passed


def test_every_check_is_described() -> None:
    checks = [
        enough_seeds(board(4)),
        aa_contains_one({}, 0.95),
        budget_equal({"baseline": []}, "baseline", []),
        tokens_reported({}),
        not_tuned_on_report("report", None, []),
    ]
    assert [check.name for check in checks] == [*DESCRIPTIONS]
