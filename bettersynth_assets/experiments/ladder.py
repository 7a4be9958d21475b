"""Ladder: the same experiment at several profiles. In: a leaderboard per rung. Out: agreement of each two rungs.

::

    leaderboard.json of each profile ─ read_rung ─► Rung ─ ladder ─► Step per two rungs and measure

A *rung* is one profile, e.g. a small and a large model. Two rungs agree as far as they order the same arms alike. An
order of two means may be noise, so each step has two kinds of figures: over the order of all pairs, and over the pairs
whose verdict is ``better`` or ``worse`` in both rungs. docs/statistics.md has the formulas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.verdict import Word

MEAN = "mean"
"""Measure: mean of the deciding benchmarks, by which leaderboards are sorted."""
FEWEST_ARMS = 2
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The result of an experiment at one profile.

    Args:
        profile: name.
        values: mean over the runs, by measure (benchmarks; of several also ``MEAN``, last) and arm. Arms without runs
            are left out.
        decided: signs of the verdicts ``better`` (1) and ``worse`` (-1), by measure and pair of arms. In ``MEAN``, a
            pair is decided if it has the same verdict in all benchmarks.
        runs: number of runs by arm.
        recipes: hash of the recipe's values, by arm.
    """

    profile: str
    values: Mapping[str, Mapping[str, float]]
    decided: Mapping[str, Mapping[Pair, int]]
    runs: Mapping[str, int]
    recipes: Mapping[str, str]

    def order(self) -> list[str]:
        """Return the arms, the one with the highest mean of the benchmarks first."""
        means = [*self.values.values()][-1]
        return sorted(means, key=lambda arm: (-means[arm], arm))


@dataclass(frozen=True, kw_only=True)
class Step:
    """Agreement of two rungs in one measure, over all pairs of common arms.

    Args:
        one, other: profiles.
        measure: a benchmark, or ``MEAN``.
        arms: number of common arms.
        pairs: number of pairs of them.
        alike: pairs that the means order alike; a pair with equal means in a rung is not.
        tau: Kendall's tau-b of the means; None if a rung has equal means only, or with fewer than two arms.
        p: p-value of "the orders have nothing to do with each other"; exact without equal means.
        agree, disagree: pairs that both rungs decide, with the same verdict and with opposite ones.
        other_recipes: common arms whose recipe has other values in the two rungs.
    """

    one: str
    other: str
    measure: str
    arms: int
    pairs: int
    alike: int
    tau: float | None
    p: float | None
    agree: int
    disagree: int
    other_recipes: tuple[str, ...]

    @property
    def share(self) -> float | None:
        """Share of pairs that the means order alike."""
        return self.alike / self.pairs if self.pairs else None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest share of pairs ordered alike that the verdicts allow: undecided pairs may go either way.

        They hold whenever no verdict of the two experiments is false.
        """
        return (self.agree / self.pairs, 1 - self.disagree / self.pairs) if self.pairs else None


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All rungs of an experiment, and each two of them that have results."""

    experiment: str
    profiles: tuple[str, ...]
    """As asked for, in this order; those that are in no rung are not measured."""
    rungs: tuple[Rung, ...]
    steps: tuple[Step, ...]

    @property
    def not_measured(self) -> tuple[str, ...]:
        measured = {rung.profile for rung in self.rungs}
        return tuple(name for name in self.profiles if name not in measured)


def ladder(experiment: str, profiles: Sequence[str], rungs: Sequence[Rung]) -> Ladder:
    """Compare each two rungs in each measure that they have in common.

    Args:
        experiment: name of the experiment.
        profiles: all rungs that were asked for.
        rungs: those with results, in the order of the profiles.
    """
    return Ladder(
        experiment=experiment,
        profiles=tuple(profiles),
        rungs=tuple(rungs),
        steps=tuple(
            _step(one, other, measure)
            for one, other in combinations(rungs, 2)
            for measure in one.values
            if measure in other.values and (measure != MEAN or one.values.keys() == other.values.keys())
        ),
    )


def _step(one: Rung, other: Rung, measure: str) -> Step:
    from scipy.stats import kendalltau  # takes half a second, and every definition loads this package

    first, second = one.values[measure], other.values[measure]
    arms = [arm for arm in first if arm in second]
    pairs = list(combinations(arms, 2))
    alike = sum((first[a] - first[b]) * (second[a] - second[b]) > 0 for a, b in pairs)
    signs = [(_sign(one, measure, pair), _sign(other, measure, pair)) for pair in pairs]
    found = None
    if len(arms) >= FEWEST_ARMS:
        found = kendalltau([first[arm] for arm in arms], [second[arm] for arm in arms], variant="b")
    is_defined = found is not None and not math.isnan(found.statistic)
    return Step(
        one=one.profile,
        other=other.profile,
        measure=measure,
        arms=len(arms),
        pairs=len(pairs),
        alike=alike,
        tau=float(found.statistic) if found is not None and is_defined else None,
        p=float(found.pvalue) if found is not None and is_defined else None,
        agree=sum(a * b > 0 for a, b in signs),
        disagree=sum(a * b < 0 for a, b in signs),
        other_recipes=tuple(arm for arm in arms if one.recipes[arm] != other.recipes[arm]),
    )


def _sign(rung: Rung, measure: str, pair: Pair) -> int:
    """Return the sign of a pair's verdict, in the direction first arm minus second; 0 if it is not decided."""
    decided = rung.decided[measure]
    return decided.get(pair, 0) or -decided.get((pair[1], pair[0]), 0)


def read_rung(profile: str, file: Path) -> Rung | None:
    """Read a rung from a ``leaderboard.json``; None if there is no such file, or it has no arm with runs.

    Raises:
        ConfigError: an older version wrote the file, or it is damaged.
    """
    if not file.is_file():
        return None
    try:
        return rung_of(profile, json.loads(file.read_text("utf-8")))
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{file}: no leaderboard of this version ({type(error).__name__}: {error}); write it again with "
            f"BETTERSYNTH_PROFILE={profile} bettersynth experiment run, which repeats no run"
        ) from error


def rung_of(profile: str, board: Mapping[str, Any]) -> Rung | None:
    """Return the rung of a leaderboard's JSON values; None without any arm with runs."""
    benchmarks = board["benchmarks"]
    rows = [row for row in board["rows"] if all(row["means"][name]["mean"] is not None for name in benchmarks)]
    if not rows:
        return None
    values = {name: {row["facts"]["arm"]: float(row["means"][name]["mean"]) for row in rows} for name in benchmarks}
    decided: dict[str, dict[Pair, int]] = {name: {} for name in benchmarks}
    signs = {Word.BETTER.value: 1, Word.WORSE.value: -1}
    for one in board["comparisons"]:
        if sign := signs.get(one["verdict"]["word"]):
            decided[one["benchmark"]][one["arm"], one["other"]] = sign
    if len(benchmarks) > 1:
        first, *others = (values[name] for name in benchmarks)
        values[MEAN] = {arm: (first[arm] + sum(one[arm] for one in others)) / len(benchmarks) for arm in first}
        in_all = set.intersection(*(set(decided[name].items()) for name in benchmarks))
        decided[MEAN] = dict(in_all)
    return Rung(
        profile=profile,
        values=values,
        decided=decided,
        runs={row["facts"]["arm"]: min(row["means"][name]["n"] for name in benchmarks) for row in rows},
        recipes={row["facts"]["arm"]: row["facts"]["recipe_hash"] for row in rows},
    )
