"""Result of a repetition curve. In: the leaderboard's rows and the scores of its arms. Out: differences and fits.

The recipe and random rows are compared at each point, all points as one family. Each of the two is fitted on its own: a
fresh row of one need not be worth as much as a fresh row of the other, so they share neither b nor R*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bettersynth_assets.config.curve import RANDOM
from bettersynth_assets.experiments.comparison import Comparison, Scores
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import Row
from bettersynth_assets.experiments.repetition import Fit, Runs, fit_curve, why_no_fit
from bettersynth_assets.experiments.table import compare_arms

CLAIMED_REPEATS = 3.76
"""Repeats of the best run of the contest's third-place team, as it says; not measured here."""
MATCHED = 1.05
"""The two arms of a point are at equal repetition if their repeats differ by this factor at most."""
Rows = Literal["recipe", "random"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Both arms with one number of rows and exposures; ``differences`` are recipe minus random rows, by benchmark."""

    name: str
    recipe: Row
    random: Row
    differences: tuple[Comparison, ...]

    @property
    def is_matched(self) -> bool:
        """Tell whether both arms repeat their rows equally often; a recipe may keep too few rows for it."""
        one, other = self.recipe.facts.repeats, self.random.facts.repeats
        return one is not None and other is not None and max(one, other) <= MATCHED * min(one, other)


@dataclass(frozen=True, kw_only=True)
class FittedRows:
    """The curve of one kind of rows in one benchmark; without a fit, ``reason`` says why."""

    rows: Rows
    benchmark: str
    runs: tuple[Runs, ...]
    fit: Fit | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """A repetition curve."""

    experiment: str
    recipe: str
    benchmarks: tuple[str, ...]
    repeats: tuple[int, ...]
    """As declared; those of ``points`` are measured."""
    confidence: float
    points: tuple[Point, ...]
    fits: tuple[FittedRows, ...]

    def fitted(self, benchmark: str) -> list[FittedRows]:
        """Return the curves of a benchmark, the recipe's first."""
        return [one for one in self.fits if one.benchmark == benchmark]


def curve_result(
    experiment: str,
    recipe: str,
    repeats: Sequence[int],
    names: Sequence[str],
    rows: Mapping[str, Row],
    scores: Scores,
    same_as: Mapping[str, str],
    declaration: Declaration,
) -> CurveResult:
    """Compare and fit the arms of a curve.

    Args:
        experiment: name of the experiment.
        recipe: name of the recipe.
        repeats: declared numbers of repeats.
        names: of the points.
        rows: of the leaderboard, by arm.
        scores: by arm, benchmark and training seed.
        same_as: arms whose training data are those of an earlier arm, which has their rows and scores.
        declaration: of the experiment.
    """
    arms = {name: tuple(same_as.get(arm, arm) for arm in (name, RANDOM + name)) for name in names}
    points = []
    for name, (arm, other) in arms.items():
        differences: tuple[Comparison, ...] = ()
        if arm != other:
            declared = replace(declaration, baseline=other, confidence=1 - declaration.level / len(arms))
            differences = compare_arms({arm: scores[arm], other: scores[other]}, declared).comparisons
        points.append(Point(name=name, recipe=rows[arm], random=rows[other], differences=differences))
    kinds: dict[Rows, list[str]] = {}
    for at, kind in enumerate(("recipe", "random")):
        kinds[kind] = list(dict.fromkeys(pair[at] for pair in arms.values()))  # type: ignore[index]
    return CurveResult(
        experiment=experiment,
        recipe=recipe,
        benchmarks=declaration.benchmarks,
        repeats=tuple(repeats),
        confidence=declaration.confidence,
        points=tuple(points),
        fits=tuple(
            _fitted(kind, benchmark, [_runs(rows[arm], scores[arm][benchmark]) for arm in of], declaration.confidence)
            for benchmark in declaration.benchmarks
            for kind, of in kinds.items()
        ),
    )


def _runs(row: Row, values: Mapping[int, float]) -> Runs:
    facts = row.facts
    return Runs(unique_rows=facts.unique_rows or 0.0, exposures=float(facts.exposures or 0), values=values)


def _fitted(rows: Rows, benchmark: str, runs: Sequence[Runs], confidence: float) -> FittedRows:
    reason = why_no_fit(runs)
    fit = None if reason else fit_curve(runs, confidence=confidence)
    return FittedRows(rows=rows, benchmark=benchmark, runs=tuple(runs), fit=fit, reason=reason)
