"""Leaderboard of an experiment. In: the compared arms, and facts about their training sets and runs. Out: rows.

Rows are sorted by the mean of the deciding benchmarks, which the experiment's file names before the first run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.kit_score import KitScore
from bettersynth_assets.experiments.table import ArmMean, Table
from bettersynth_assets.experiments.verdict import Word
from toolkit.evaluation.settings import Split


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """An arm's training set and the cost of its runs; None where something is not known.

    Args:
        arm: name in the experiment.
        same_as: other arms of the experiment whose training file is equal, so that they are this arm.
        exposures: pairs that a run is shown in pre-training.
        unique_rows: different pairs among them, mean over the runs' training sets.
        tokens: supervised tokens of a run, mean over the runs.
        device_hours: of all runs together: hours in which a run held a device, or the CPU.
        recipe_hash: of the recipe's values.
        commits: of the code that trained the runs, or versions of an installed package; empty if not known.
    """

    arm: str
    same_as: tuple[str, ...] = ()
    exposures: int | None = None
    unique_rows: float | None = None
    tokens: float | None = None
    device_hours: float | None = None
    recipe_hash: str = ""
    commits: tuple[str, ...] = ()

    @property
    def repeats(self) -> float | None:
        """Mean number of exposures of a pair."""
        return self.exposures / self.unique_rows if self.exposures and self.unique_rows else None


@dataclass(frozen=True, kw_only=True)
class Against:
    """Difference of an arm to another one; without an estimate there are too few seeds."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm.

    Args:
        facts: its training set and cost.
        means: by benchmark.
        to_baseline: by benchmark; empty for the baseline.
        to_best: difference to the arm at the top, by benchmark; empty for the top and for pairs that are not declared.
        mean: of the deciding benchmarks, by which the rows are sorted; None until each of them has two runs.
        among_best: the top, and arms that it is not shown to be better than in any benchmark.
        kit_score: the contest's score; None for the baseline, or with a reason in ``no_kit_score``.
        hours_per_point: device hours of one run divided by the mean difference to the baseline; only for a better arm.
    """

    facts: ArmFacts
    means: Mapping[str, ArmMean]
    to_baseline: Mapping[str, Against]
    to_best: Mapping[str, Against]
    mean: float | None
    among_best: bool
    kit_score: KitScore | None
    no_kit_score: str
    hours_per_point: float | None

    @property
    def arm(self) -> str:
        return self.facts.arm

    @property
    def runs(self) -> int:
        return min(mean.n for mean in self.means.values())


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Rows in the order of the sorted metric, and the declaration that they follow from."""

    experiment: str
    baseline: str
    benchmarks: tuple[str, ...]
    counts: tuple[int, ...]
    """Looks: numbers of seeds at which the experiment decides."""
    confidence: float
    chance: Mapping[str, float | None]
    """Chance level of each benchmark (docs/statistics.md); None if it is not known."""
    near_floor: tuple[str, ...]
    """Benchmarks in which the baseline is near the chance level."""
    split: Split
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    """All declared comparisons, in the declared direction."""


def leaderboard(experiment: str, table: Table, declaration: Declaration, facts: Mapping[str, ArmFacts]) -> Leaderboard:
    """Arrange the result of an experiment as a leaderboard.

    Args:
        experiment: name of the experiment.
        table: result of ``compare_arms``.
        declaration: what the experiment has declared.
        facts: by arm, for the arms of the table.
    """
    means: dict[str, dict[str, ArmMean]] = {}
    for mean in table.means:
        means.setdefault(mean.arm, {})[mean.benchmark] = mean
    sorted_by = {arm: _mean(found) for arm, found in means.items()}
    order = sorted(means, key=lambda arm: (sorted_by[arm] is None, -(sorted_by[arm] or 0.0), arm))
    best = order[0] if sorted_by[order[0]] is not None else None
    judged = any(best in (one.arm, one.other) and one.estimate is not None for one in table.comparisons)
    rows = []
    for arm in order:
        to_baseline = _against(table.comparisons, arm, declaration.baseline)
        to_best = _against(table.comparisons, arm, best) if best else {}
        rows.append(
            Row(
                facts=facts[arm],
                means=means[arm],
                to_baseline=to_baseline,
                to_best=to_best,
                mean=sorted_by[arm],
                among_best=judged and (arm == best or _not_worse(to_best)),
                kit_score=table.kit_scores.get(arm),
                no_kit_score=table.no_kit_score.get(arm, ""),
                hours_per_point=_cost(facts[arm], means[arm], to_baseline),
            )
        )
    return Leaderboard(
        experiment=experiment,
        baseline=declaration.baseline,
        benchmarks=declaration.benchmarks,
        counts=declaration.looks.counts,
        confidence=declaration.confidence,
        chance={name: declaration.chance.get(name) for name in declaration.benchmarks},
        near_floor=table.near_floor,
        split=declaration.split,
        rows=tuple(rows),
        comparisons=table.comparisons,
    )


def _mean(means: Mapping[str, ArmMean]) -> float | None:
    known = [mean.mean for mean in means.values() if mean.mean is not None and mean.n > 1]
    return sum(known) / len(known) if len(known) == len(means) else None


def _against(comparisons: Sequence[Comparison], arm: str, other: str) -> dict[str, Against]:
    """Return the comparisons of an arm with another one, by benchmark, in the direction arm minus other."""
    found = {}
    for one in comparisons:
        if {one.arm, one.other} == {arm, other} and arm != other:
            found[one.benchmark] = _directed(one, swap=one.arm != arm)
    return found


def _directed(one: Comparison, *, swap: bool) -> Against:
    words = {Word.BETTER: Word.WORSE, Word.WORSE: Word.BETTER}
    verdict = words[one.verdict.word].value if swap and one.verdict.word in words else str(one.verdict)
    if one.estimate is None:
        return Against(verdict=verdict)
    value, low, high = one.estimate.value, one.estimate.low, one.estimate.high
    return Against(value=-value, low=-high, high=-low, verdict=verdict) if swap else Against(
        value=value, low=low, high=high, verdict=verdict
    )  # fmt: skip


def _not_worse(to_best: Mapping[str, Against]) -> bool:
    """Tell whether an arm is compared with the best one, and not shown to be worse in any benchmark."""
    words = {against.verdict for against in to_best.values()}
    return bool(words) and words.isdisjoint({Word.WORSE.value, Word.TOO_FEW.value})


def _cost(facts: ArmFacts, means: Mapping[str, ArmMean], to_baseline: Mapping[str, Against]) -> float | None:
    gained = [against.value for against in to_baseline.values() if against.value is not None]
    runs = min(mean.n for mean in means.values())
    is_better = {against.verdict for against in to_baseline.values()} == {Word.BETTER.value}
    in_points = not any(Measure.of(name).is_log_probability for name in means)
    if facts.device_hours is None or not is_better or not runs or not in_points:
        return None
    return facts.device_hours / runs / (sum(gained) / len(gained))
