"""Checks of an experiment's result, which do not stop it: whether its comparisons can be trusted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bettersynth_assets.experiments.kit_score import BENCHMARKS, kit_score
from bettersynth_assets.experiments.leaderboard import Leaderboard
from bettersynth_assets.experiments.sequential import MIN_SEEDS

DESCRIPTIONS = {
    "enough_seeds": "Every arm has the training seeds of the first look.",
    "aa_contains_one": "The kit score of one half of the baseline's runs against the other half does not exclude 1.",
    "budget_equal": "Every run is shown as many pairs as the baseline's, except in arms that set their own budget.",
    "tokens_reported": "Every run reports its supervised tokens.",
    "not_tuned_on_report": "No settings were compared by their scores on the split report.",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one check."""

    name: str
    passed: bool
    summary: str


def enough_seeds(board: Leaderboard) -> Check:
    """Check the number of runs of every arm."""
    needed = board.counts[0]
    few = [f"{row.arm} has {row.runs}" for row in board.rows if row.runs < needed]
    summary = f"the first look needs {needed} seeds per arm"
    return Check(name="enough_seeds", passed=not few, summary="; ".join([summary, *few]))


def aa_contains_one(baseline: Mapping[str, Mapping[int, float]], confidence: float) -> Check:
    """Compare every second run of the baseline with the others, as if they were two arms.

    Args:
        baseline: values by benchmark and training seed.
        confidence: of the interval.
    """
    name, runs = "aa_contains_one", min((len(baseline.get(name, ())) for name in BENCHMARKS), default=0)
    if runs < 2 * MIN_SEEDS:
        needed = f"{2 * MIN_SEEDS} runs of the baseline with {' and '.join(BENCHMARKS)} are needed, there are {runs}"
        return Check(name=name, passed=True, summary=f"not judged: {needed}")
    values = {name: np.array([baseline[name][seed] for seed in sorted(baseline[name])]) for name in BENCHMARKS}
    halves = [{name: found[start::2] for name, found in values.items()} for start in (0, 1)]
    if any(half[name].mean() == 0 for half in halves for name in BENCHMARKS):
        return Check(name=name, passed=False, summary="a half of the baseline's runs has nothing right in a benchmark")
    score = kit_score(*halves)
    low, high = score.interval(confidence)
    summary = f"kit score of the baseline against itself {score.value:.3f} [{low:.3f}, {high:.3f}], {runs} runs"
    return Check(name=name, passed=low <= 1 <= high, summary=summary)


def budget_equal(exposures: Mapping[str, Collection[int | None]], baseline: str, own_budget: Collection[str]) -> Check:
    """Compare the exposures of the runs.

    Args:
        exposures: of each run, by arm.
        baseline: name of the baseline's arm.
        own_budget: arms for which the experiment's file sets another budget.
    """
    wanted = set(exposures[baseline])
    found = {arm: sorted(map(str, set(values))) for arm, values in exposures.items() if not set(values) <= wanted}
    other = [f"{arm}: {', '.join(values)}" for arm, values in found.items() if arm not in own_budget]
    declared = [f"{arm}: {', '.join(values)}, as declared" for arm, values in found.items() if arm in own_budget]
    summary = f"exposures of the baseline: {', '.join(sorted(map(str, wanted))) or 'no run'}"
    return Check(name="budget_equal", passed=not other, summary="; ".join([summary, *other, *declared]))


def tokens_reported(tokens: Mapping[str, Sequence[int | None]]) -> Check:
    """Check that no run lacks its number of supervised tokens."""
    missing = [f"{arm}: {sum(not one for one in found)}" for arm, found in tokens.items() if not all(found)]
    runs = sum(map(len, tokens.values()))
    summary = f"{runs} runs" + (f"; runs without tokens: {', '.join(missing)}" if missing else ", all with tokens")
    return Check(name="tokens_reported", passed=not missing, summary=summary)


def not_tuned_on_report(split: str, other: str | None, searches: Sequence[str]) -> Check:
    """Check that the scores have not been used to choose settings.

    Args:
        split: of the questions.
        other: of ``tuning.other_settings``.
        searches: of ``tuning.searched``.
    """
    name = "not_tuned_on_report"
    if split == "tune":
        return Check(name=name, passed=True, summary="split tune: the scores are for choosing settings")
    found = [*([f"other training settings have scores on this report: {other}"] if other else []), *searches]
    fix = "choose with `purpose: tune`, then report the chosen settings on questions of another world_report"
    summary = "; ".join([*found, fix]) if found else "no other training settings, and no search over values"
    return Check(name=name, passed=not found, summary=summary)
