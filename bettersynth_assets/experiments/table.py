"""Comparison of a set of arms. In: one value per arm, benchmark and training run. Out: plain dataclasses.

Runs count in the order of their training seeds: a look at n seeds uses the first n of each arm, so a result does not
depend on when it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison import Comparison, Questions, Scores, judge, pair_of
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.kit_score import KitScore, kit_score, near_floor, why_no_score
from bettersynth_assets.experiments.seeds import variance_of_mean
from bettersynth_assets.experiments.verdict import Word


@dataclass(frozen=True, kw_only=True)
class ArmMean:
    """Mean of an arm over its ``n`` runs with its t interval; without runs there is no mean, with one no spread.

    ``chance`` is the chance level of the benchmark; None if it is not known.
    """

    arm: str
    benchmark: str
    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Result of an experiment.

    Args:
        means: by arm and benchmark, in the order of the scores.
        comparisons: in the order of ``Declaration.family``.
        kit_scores: by arm, without the baseline.
        no_kit_score: reasons, for the arms without a kit score.
        near_floor: benchmarks in which the baseline is near the chance level (``kit_score.near_floor``).
    """

    means: tuple[ArmMean, ...]
    comparisons: tuple[Comparison, ...]
    kit_scores: Mapping[str, KitScore]
    no_kit_score: Mapping[str, str]
    near_floor: tuple[str, ...]

    def group_of_best(self, benchmark: str) -> tuple[str, ...]:
        """Name the arm with the highest mean, then those that it is compared with and not shown to be better than."""
        means = {mean.arm: mean.mean for mean in self.means if mean.benchmark == benchmark and mean.mean is not None}
        if not means:
            return ()
        best = max(means, key=lambda arm: means[arm])
        ours = [one for one in self.comparisons if one.benchmark == benchmark and best in (one.arm, one.other)]
        return best, *(
            one.other if one.arm == best else one.arm
            for one in ours
            if one.verdict.word is not (Word.BETTER if one.arm == best else Word.WORSE)
        )


def compare_arms(scores: Scores, declaration: Declaration, questions: Questions | None = None) -> Table:
    """Compare all arms as declared.

    Args:
        scores: values of every arm in every declared benchmark, and the headlines that the kit score takes; an arm may
            have any number of runs, also none.
        declaration: baseline, benchmarks, looks, margin, confidence.
        questions: scores per question of the benchmarks that have them, for the generalising intervals.

    Raises:
        ConfigError: no baseline, a single arm, or an arm without a declared benchmark.
    """
    for arm, found in scores.items():
        if missing := [name for name in declaration.benchmarks if name not in found]:
            raise ConfigError(f"{arm} has no scores in {', '.join(missing)}: evaluate it there")
    pairs = [pair_of(scores, *names, declaration) for names in declaration.family(list(scores))]
    values = {
        arm: {name: np.array(list(runs.values())) for name, runs in found.items()} for arm, found in scores.items()
    }
    baseline = values[declaration.baseline]
    reasons = {arm: why_no_score(found, baseline) for arm, found in values.items() if arm != declaration.baseline}
    return Table(
        means=tuple(
            _mean(arm, name, values[arm][name], declaration) for arm in scores for name in declaration.benchmarks
        ),
        comparisons=judge(pairs, declaration, questions or {}),
        kit_scores={
            arm: kit_score(values[arm], baseline, chance=declaration.chance) for arm, why in reasons.items() if not why
        },
        no_kit_score={arm: why for arm, why in reasons.items() if why},
        near_floor=tuple(
            name
            for name in declaration.benchmarks
            if not Measure.of(name).is_log_probability  # which has no chance level, and 0 is its highest value
            and near_floor(baseline[name], declaration.chance.get(name, 0.0))
        ),
    )


def _mean(arm: str, benchmark: str, values: np.ndarray, declaration: Declaration) -> ArmMean:
    n = len(values)
    single = float(values[0]) if n == 1 else None
    found = ArmMean(arm=arm, benchmark=benchmark, n=n, mean=single, chance=declaration.chance.get(benchmark))
    if n < 2:
        return found
    mean = float(values.mean())
    half = float(stdtrit(n - 1, 1 - declaration.level / 2) * np.sqrt(variance_of_mean(values)))
    return replace(found, mean=mean, sd=float(values.std(ddof=1)), low=mean - half, high=mean + half)
