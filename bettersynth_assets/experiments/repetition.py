"""Value of repeated rows. In: scores of runs that differ in rows and repetition. Out: R*, effective rows, a band.

::

    D' = U + U R* (1 - e^(-R / R*))      U unique rows, R = exposures / U - 1 repetitions
    score = a + b log(D' / N)            N exposures of the curve, b >= 0
    run of seed s = score + seed effect of s + noise

D' is the number of fresh rows, each shown once, that are worth as much. R* is the number of repetitions after which 63%
of what repetition can add has been added. Source of D': Muennighoff et al. (2023), "Scaling Data-Constrained Language
Models", arXiv:2305.16264. The formulas of the intervals are in docs/statistics.md.

For one R*, the model is linear, so the profile over R* is computed on a grid, without a search that could end in a
local minimum. Points without repetition but with fewer exposures say what fresh rows are worth (b); without them, only
the curvature of the decline identifies R*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import fdtrc, stdtrit

from bettersynth_assets.experiments.difference import Floats, sum_of_variances
from bettersynth_assets.experiments.sequential import MIN_SEEDS

MIN_POINTS = 3
"""As many as the curve has parameters."""
SCALE = 100.0
"""Range of the scores, which are percentages."""
GRID = np.geomspace(1e-2, 1e4, 601)
"""Values of R*; neighbours differ by 2.3%. At the first one a repeated row is worth nothing, at the last one as much as
a fresh row, for all repetitions that occur."""


def effective_rows(unique_rows: Floats | float, exposures: Floats | float, r_star: Floats | float) -> Floats:
    """Compute D' = U + U R* (1 - e^(-R / R*)), R = exposures / U - 1; arguments are broadcast. For R* = inf, D' is the
    number of exposures, and for R* = 0 it is U."""
    unique, shown, constant = (np.asarray(value, dtype=np.float64) for value in (unique_rows, exposures, r_star))
    repetitions = np.maximum(shown / unique - 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        added = -constant * np.expm1(-repetitions / constant)
    added = np.where(np.isinf(constant), repetitions, np.where(constant == 0, 0.0, added))
    return np.asarray(unique * (1 + added))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs with one number of rows and of exposures.

    Args:
        unique_rows: different rows that a run is shown, mean over the runs.
        exposures: rows that a run is shown.
        values: score by training seed.
    """

    unique_rows: float
    exposures: float
    values: Mapping[int, float]

    @property
    def repeats(self) -> float:
        """Mean number of exposures of a row."""
        return self.exposures / self.unique_rows


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval; without an estimate, only the interval is known."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted curve.

    Args:
        exposures: N, the largest number of exposures.
        seeds: training seeds that all points have; others are not used.
        level: error rate of the intervals.
        score: a, the score of N fresh rows, with its interval.
        points_per_doubling: b log 2: gain from twice as many fresh rows, with its interval; without an estimate if the
            interval is wider than the scale of the scores.
        r_star: with its interval. ``low`` is 0 and ``high`` is infinite where the scores set no limit.
        p_fit: p-value of the test that the points lie on such a curve; None for three points.
        shape: what ``band`` needs.
    """

    exposures: float
    seeds: tuple[int, ...]
    level: float
    score: Interval
    points_per_doubling: Interval
    r_star: Interval
    p_fit: float | None
    shape: Profile = field(compare=False, repr=False)

    def effective_share(self, repeats: float) -> Interval:
        """Return D'/U at a mean number of exposures of a row: 1 if repeated rows add nothing, ``repeats`` at most.

        D' rises with R*, so the interval of R* gives that of D'/U, for all numbers of repeats at once.
        """
        ends = (self.r_star.value, self.r_star.low, self.r_star.high)
        value, low, high = (None if end is None else float(effective_rows(1.0, repeats, end)) for end in ends)
        assert low is not None and high is not None
        return Interval(value=value, low=low, high=high)

    def band(self, repeats: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the fitted score at N exposures of N / repeats rows, and the ends of its interval at each of them."""
        repeats = np.asarray(repeats, dtype=np.float64)
        return self.shape.band(self.exposures / repeats, self.exposures, self.level)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Least-squares fits of a and b at each R* of the grid.

    Args:
        reference: N.
        mean: mean score of all runs.
        center: mean of log(D'/N) over the points, by R*.
        slope: b, by R*.
        spread: sum over all runs of the squared deviations of log(D'/N) from ``center``, by R*.
        excess: sum of squares above the smallest one, divided by ``within``, by R*.
        within: variance of a run, apart from its seed's effect on all points.
        between: variance of ``mean`` over the seeds.
        dfs: degrees of freedom of ``between`` and ``within``.
    """

    reference: float
    mean: float
    center: Floats
    slope: Floats
    spread: Floats
    excess: Floats
    within: float
    between: float
    dfs: tuple[int, int]

    def band(self, unique_rows: Floats, exposures: float, level: float) -> tuple[Floats, Floats, Floats]:
        """Return the fitted score for numbers of rows, and the ends of the interval at each of them."""
        rows = np.asarray(unique_rows, dtype=np.float64)[:, None]
        away = np.log(effective_rows(rows, exposures, GRID) / self.reference) - self.center
        fitted = self.mean + self.slope * away
        of_slope = self.within * away**2 / self.spread
        variance, df = sum_of_variances([np.full_like(of_slope, self.between), of_slope], self.dfs)
        left = stdtrit(df, 1 - level / 2) ** 2 - self.excess
        half = np.sqrt(variance * np.maximum(left, 0))
        low = np.where(left >= 0, fitted - half, np.inf).min(axis=1)
        high = np.where(left >= 0, fitted + half, -np.inf).max(axis=1)
        return fitted[:, int(self.excess.argmin())], low, high


def fit_curve(points: Sequence[Runs], *, confidence: float = 0.95) -> Fit:
    """Fit a, b and R* to the runs of several points.

    Raises:
        ValueError: what ``why_no_fit`` says.
    """
    if reason := why_no_fit(points):
        raise ValueError(f"no curve: {reason}")
    level = 1 - confidence
    seeds = _common_seeds(points)
    exposures = max(point.exposures for point in points)
    values = np.array([[point.values[seed] for seed in seeds] for point in points])
    profile, p_fit = _profile(points, values, exposures)
    best = int(profile.excess.argmin())
    accepted = np.flatnonzero(profile.excess <= float(stdtrit(profile.dfs[1], 1 - level / 2)) ** 2)
    low = 0.0 if accepted[0] == 0 else float(GRID[accepted[0]])
    high = float("inf") if accepted[-1] == len(GRID) - 1 else float(GRID[accepted[-1]])
    fresh = [float(end[0]) for end in profile.band(np.array([exposures]), exposures, level)]
    return Fit(
        exposures=exposures,
        seeds=seeds,
        level=level,
        score=Interval(value=fresh[0], low=fresh[1], high=fresh[2]),
        points_per_doubling=_doubling(profile, level),
        r_star=Interval(value=float(GRID[best]) if low > 0 and np.isfinite(high) else None, low=low, high=high),
        p_fit=p_fit,
        shape=profile,
    )


def _doubling(profile: Profile, level: float) -> Interval:
    left = float(stdtrit(profile.dfs[1], 1 - level / 2)) ** 2 - profile.excess
    half = np.sqrt(profile.within / profile.spread * np.maximum(left, 0))
    low = np.where(left >= 0, np.maximum(profile.slope - half, 0), np.inf).min() * np.log(2)
    high = np.where(left >= 0, profile.slope + half, -np.inf).max() * np.log(2)
    value = float(profile.slope[int(profile.excess.argmin())] * np.log(2))
    return Interval(value=value if high - low <= SCALE else None, low=float(low), high=float(high))


def why_no_fit(points: Sequence[Runs]) -> str:
    """Return why points have no fitted curve, or an empty text."""
    if not all(point.unique_rows > 0 and point.exposures > 0 for point in points):
        return "a run does not say how many rows it was shown"
    if (different := len({(point.unique_rows, point.exposures) for point in points})) < MIN_POINTS:
        return f"{different} different number(s) of rows; {MIN_POINTS} are needed"
    if (seeds := len(_common_seeds(points))) < MIN_SEEDS:
        return f"{seeds} training seed(s) in all points; {MIN_SEEDS} are needed"
    return ""


def _common_seeds(points: Sequence[Runs]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*(set(point.values) for point in points))))


def _profile(points: Sequence[Runs], values: Floats, reference: float) -> tuple[Profile, float | None]:
    """Fit a and b at each R*.

    Args:
        points: the points.
        values: scores, (points, seeds).
        reference: N.

    Returns:
        The fits, and the p-value of the test of the curve's form.
    """
    n, runs = values.shape
    mean, of_points, of_seeds = values.mean(), values.mean(axis=1), values.mean(axis=0)
    noise = values - of_points[:, None] - of_seeds + mean
    dfs = runs - 1, (n - 1) * (runs - 1)
    # Equal scores have no noise, and equal effective rows no spread: this keeps the ratios defined.
    least = 1e-12
    within = max(float(np.square(noise).sum() / dfs[1]), least)
    unique, shown = (np.array([getattr(point, name) for point in points]) for name in ("unique_rows", "exposures"))
    x = np.log(effective_rows(unique[:, None], shown[:, None], GRID) / reference)
    center = x.mean(axis=0)
    spread = np.maximum(runs * np.square(x - center).sum(axis=0), least)
    together = runs * ((of_points - mean) @ (x - center))
    slope = np.maximum(together / spread, 0.0)
    squares = runs * float(np.square(of_points - mean).sum()) - slope * together
    smallest = max(float(squares.min()), 0.0)
    p_fit = None if n == MIN_POINTS else float(fdtrc(n - MIN_POINTS, dfs[1], smallest / (n - MIN_POINTS) / within))
    profile = Profile(
        reference=reference,
        mean=float(mean),
        center=center,
        slope=slope,
        spread=spread,
        excess=(squares - squares.min()) / within,
        within=within,
        between=float(of_seeds.var(ddof=1) / runs),
        dfs=dfs,
    )
    return profile, p_fit
