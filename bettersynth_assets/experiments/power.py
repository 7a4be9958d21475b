"""What a number of training seeds can show, for planning and for comparisons without a verdict."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from bettersynth_assets.experiments.difference import Floats, sum_of_variances

POWER = 0.8
"""Chance to detect the smallest detectable difference."""
MOST_SEEDS = 2000


def smallest_detectable(se: Floats | float, df: Floats | float, *, level: float, power: float = POWER) -> Floats:
    """True difference that a two-sided test detects with probability ``power``.

    (t_{df, 1 - level/2} + t_{df, power}) se, within 1% of the value from the noncentral t distribution for df >= 3.
    Source: Bloom (1995), Evaluation Review 19, 547-556.
    """
    return np.asarray((stdtrit(df, 1 - level / 2) + stdtrit(df, power)) * se)


def detectable_with(n: Floats | int, sd_a: float, sd_b: float, *, level: float, power: float = POWER) -> Floats:
    """Smallest detectable difference with ``n`` training seeds per arm, given both standard deviations over seeds.

    For paired seeds, pass the standard deviation of the differences and 0.
    """
    n = np.asarray(n, dtype=np.float64)
    variance, df = sum_of_variances([sd_a**2 / n, sd_b**2 / n], [n - 1, n - 1])
    return smallest_detectable(np.sqrt(variance), df, level=level, power=power)


def seeds_needed(difference: float, sd_a: float, sd_b: float, *, level: float, power: float = POWER) -> int | None:
    """Fewest training seeds per arm that detect a true difference; None if ``MOST_SEEDS`` are too few."""
    n = np.arange(2.0, MOST_SEEDS + 1)
    enough = detectable_with(n, sd_a, sd_b, level=level, power=power) <= abs(difference)
    return int(n[np.argmax(enough)]) if enough.any() else None
