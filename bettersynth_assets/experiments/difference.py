"""A difference of two means with its standard error. Out: p-value, interval and test of equivalence.

All fields are numbers, or arrays of one shape: the simulation runs the code that judges a single experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of one arm minus mean of another, in the units of the metric (percentage points for shares).

    Args:
        estimate: the difference.
        se: its standard error, >= 0.
        df: degrees of freedom of ``se``, > 0.
    """

    estimate: Floats
    se: Floats
    df: Floats

    def p(self) -> Floats:
        """Two-sided p-value of "no difference": 2 P(T_df <= -|estimate / se|)."""
        return np.asarray(2 * stdtr(self.df, -np.abs(_ratio(self.estimate, self.se))))

    def interval(self, level: float) -> tuple[Floats, Floats]:
        """Interval with error rate ``level``: estimate ± t_{df, 1 - level/2} se. 0.05 gives the 95% interval."""
        half = stdtrit(self.df, 1 - level / 2) * self.se
        return self.estimate - half, self.estimate + half

    def p_equivalent(self, margin: float) -> Floats:
        """P-value of "the arms differ by ``margin`` or more", by two one-sided tests.

        max(P(T_df <= -(margin - estimate) / se), P(T_df <= -(margin + estimate) / se)).
        Source: Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15, 657-680.

        Raises:
            ValueError: a margin that is not positive.
        """
        if not margin > 0:
            raise ValueError(f"a margin of {margin} cannot be tested: give a positive number of points")
        return np.asarray(stdtr(self.df, -_ratio(margin - np.abs(self.estimate), self.se)))


def _ratio(value: Floats, se: Floats) -> Floats:
    """Divide by a standard error; without noise, any difference is infinitely large, and none is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(value == 0, 0.0, value / se))


def sum_of_variances(variances: Sequence[Floats], dfs: Sequence[Floats | int]) -> tuple[Floats, Floats]:
    """Add independent variance estimates. Returns: their sum, and its approximate degrees of freedom.

    df = (sum v)² / sum(v² / df). Source: Satterthwaite (1946), Biometrics Bulletin 2, 110-114. If all variances are 0,
    df is the sum of the given ones.
    """
    total = np.asarray(sum(variances), dtype=np.float64)
    weights = sum(np.square(variance) / df for variance, df in zip(variances, dfs, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(total > 0, total**2 / weights, sum(np.asarray(df, dtype=np.float64) for df in dfs))
    return total, df
