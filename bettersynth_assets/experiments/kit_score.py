"""The contest's score of an arm against the baseline, with the noise of both, and the baseline against itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import stdtrit

from bettersynth_assets.experiments.difference import Floats, sum_of_variances
from bettersynth_assets.experiments.seeds import variance_of_mean
from bettersynth_assets.experiments.sequential import MIN_SEEDS

BENCHMARKS = ("mmbench", "textvqa")
NEAR = 3.0
"""A baseline within so many standard deviations of one run above chance is near its floor."""


@dataclass(frozen=True, kw_only=True)
class KitScore:
    """Score of an arm; 1 is equal to the baseline.

    Args:
        value: mean of the two ratios to the baseline.
        se: standard error, with the noise of the arm and of the baseline.
        df: degrees of freedom of ``se``.
        near_floor: benchmarks whose baseline is near the chance level, so that the ratio there is large and unstable.
    """

    value: float
    se: float
    df: float
    near_floor: tuple[str, ...] = ()

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        half = float(stdtrit(self.df, (1 + confidence) / 2)) * self.se
        return self.value - half, self.value + half


def kit_score(
    arm: Mapping[str, Floats], baseline: Mapping[str, Floats], *, chance: Mapping[str, float] | None = None
) -> KitScore:
    """Compute K = ½ (M_a/M_b + T_a/T_b) of the means over seeds, M for MMBench and T for TextVQA.

    se² = ¼ sum over both benchmarks of v_a/b² + a² v_b/b⁴, with the means a (arm) and b (baseline) and v = s²/n of
    each: the first-order (delta method) variance of ratios of independent means. The two benchmarks count as
    independent, although a run's two scores are correlated. Degrees of freedom as in ``sum_of_variances``.

    Args:
        arm: values per training run, by benchmark.
        baseline: the same for the baseline; its runs must not be the arm's.
        chance: chance levels, by benchmark; 0, the lowest possible, where none is given.

    Raises:
        ValueError: what ``why_no_score`` says.
    """
    if reason := why_no_score(arm, baseline):
        raise ValueError(f"no kit score: {reason}")
    value, terms, dfs = 0.0, [], []
    for name in BENCHMARKS:
        a, b = np.asarray(arm[name]).mean(), np.asarray(baseline[name]).mean()
        value += a / b / 2
        terms += [variance_of_mean(arm[name]) / b**2 / 4, a**2 * variance_of_mean(baseline[name]) / b**4 / 4]
        dfs += [len(arm[name]) - 1, len(baseline[name]) - 1]
    variance, df = sum_of_variances(terms, dfs)
    near = tuple(name for name in BENCHMARKS if near_floor(baseline[name], (chance or {}).get(name, 0.0)))
    return KitScore(value=float(value), se=float(np.sqrt(variance)), df=float(df), near_floor=near)


def why_no_score(arm: Mapping[str, Floats], baseline: Mapping[str, Floats]) -> str:
    """Return why two arms have no kit score, or an empty text."""
    for name in BENCHMARKS:
        if name not in arm or name not in baseline:
            return f"{name} is not evaluated"
        if (fewest := min(len(arm[name]), len(baseline[name]))) < MIN_SEEDS:
            return f"{fewest} training seed(s) in {name}; {MIN_SEEDS} are needed for each arm"
        if np.asarray(baseline[name]).mean() == 0:
            return f"the baseline has nothing right in {name}, so there is no ratio to it"
    return ""


def near_floor(values: Floats, chance: float) -> bool:
    """Tell whether runs are hard to tell from guessing: mean - chance < ``NEAR`` standard deviations of one run.

    False with fewer than ``MIN_SEEDS`` runs, which do not show how far runs spread.
    """
    values = np.asarray(values, dtype=np.float64)
    return len(values) >= MIN_SEEDS and bool(values.mean() - chance < NEAR * values.std(ddof=1))


def against_itself(baseline: Mapping[str, Floats], size: int = 2) -> Floats:
    """Compute K of all ordered pairs of disjoint subsets of the baseline's runs: what no difference looks like.

    Args:
        baseline: values per training run, by benchmark, in the order of the seeds.
        size: runs in each subset.

    Returns:
        One K per pair, e.g. 90 for two against two of six runs.

    Raises:
        ValueError: fewer than two times ``size`` runs.
    """
    runs = range(len(baseline[BENCHMARKS[0]]))
    if len(runs) < 2 * size:
        raise ValueError(f"{len(runs)} runs of the baseline: two sets of {size} need {2 * size}")
    means = {
        chosen: [np.asarray(baseline[name])[list(chosen)].mean() for name in BENCHMARKS]
        for chosen in combinations(runs, size)
    }
    pairs = [(one, other) for one in means for other in means if not set(one) & set(other)]
    return np.array([np.mean(np.divide(means[one], means[other])) for one, other in pairs])
