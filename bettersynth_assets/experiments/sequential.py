"""Looks at an experiment while its seeds are added: alpha spending and p-values that account for all looks.

By default, the error rate is spent as O'Brien and Fleming's boundaries do: hardly any at the first look, almost all at
the last one. Chosen over an anytime-valid confidence sequence because an experiment has a few looks that are planned
in advance: such a sequence pays for a look after every seed, and the simple ones need a known variance or many seeds.

Sources: Lan and DeMets (1983), Biometrika 70, 659-663 (spending); O'Brien and Fleming (1979), Biometrics 35, 549-556;
Kim and DeMets (1987), Biometrika 74, 149-154 (spending in proportion to the seeds); Armitage, McPherson and Rowe
(1969), J. R. Statist. Soc. A 132, 235-244 (the integration); Jennison and Turnbull (2000), Group Sequential Methods
(t-tests at the nominal levels of the normal boundaries); Liu and Anderson (2008), JASA 103, 1621-1630 (p-values of
sequential tests); Maurer and Bretz (2013), Statistics in Biopharmaceutical Research 5, 311-320 (group sequential tests
in a Holm family).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bettersynth_assets.experiments.difference import Floats

MIN_SEEDS = 3
"""Fewest training seeds per arm for any comparison: with two, the spread itself is a guess from one difference."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(201)
_FAR = 8.5
"""Standard deviations beyond which a normal density is 0 in double precision."""
_FARTHEST = 36.0
"""A boundary that is never crossed: beyond it, probabilities are not representable."""
_LEVELS = np.logspace(-10, np.log10(0.5), 97)
"""Levels between which sequential p-values are interpolated; smaller ones are given as the first, larger ones as 1."""


def obrien_fleming(level: float, fraction: float) -> float:
    """4 - 4 Φ(z_{1 - level/4} / √fraction): each sign has α = level/2, spent as 2 - 2 Φ(z_{1 - α/2} / √fraction)."""
    return float(4 * ndtr(ndtri(level / 4) / np.sqrt(fraction)))


def linear(level: float, fraction: float) -> float:
    """level · fraction: more of it early, so that a clear difference is decided with few seeds."""
    return level * fraction


Spending = Literal["obrien_fleming", "linear"]
SPENDING: dict[Spending, Callable[[float, float], float]] = {"obrien_fleming": obrien_fleming, "linear": linear}
"""Error rate that may be spent up to a fraction of the seeds: at most the level, and all of it at fraction 1."""


@dataclass(frozen=True)
class Looks:
    """Numbers of training seeds per arm at which an experiment may decide, in ascending order.

    Raises:
        ValueError: no look, one under ``MIN_SEEDS``, an order that does not ascend, or an unknown spending.
    """

    counts: tuple[int, ...]
    spending: Spending = "obrien_fleming"

    def __post_init__(self) -> None:
        if not self.counts or list(self.counts) != sorted(set(self.counts)):
            raise ValueError(f"looks at {self.counts} seeds: give ascending numbers of seeds")
        if self.counts[0] < MIN_SEEDS:
            raise ValueError(f"a look at {self.counts[0]} seeds: nothing is compared under {MIN_SEEDS}, start there")
        if self.spending not in SPENDING:
            raise ValueError(f"spending {self.spending!r}: use {' or '.join(SPENDING)}")

    @classmethod
    def planned(cls, start: int, step: int, maximum: int, spending: Spending = "obrien_fleming") -> Looks:
        """Look at ``start``, ``start + step``, … up to ``maximum`` seeds.

        Raises:
            ValueError: a step under 1, or a maximum under the start.
        """
        if step < 1 or maximum < start:
            raise ValueError(f"seeds from {start} to {maximum} in steps of {step}: step >= 1 and max >= start needed")
        return cls(tuple(range(start, maximum + 1, step)), spending)

    def reached(self, n: int) -> tuple[int, ...]:
        """Looks that ``n`` seeds per arm allow."""
        return tuple(count for count in self.counts if count <= n)

    def nominal_levels(self, level: float) -> Floats:
        """Levels for the p-values of the single looks, so that all looks together have error rate ``level``."""
        last = self.counts[-1]
        return nominal_levels(level, [count / last for count in self.counts], SPENDING[self.spending])

    def p(self, p: Floats) -> tuple[Floats, NDArray[np.intp]]:
        """Combine the p-values of the looks reached into one.

        The result is the smallest level whose boundaries are crossed at one of the looks. Under "no difference" it is
        at most x with probability at most x, whenever the looks stop.

        Args:
            p: shape (…, looks reached).

        Returns:
            The combined p-values and the index of the look that each comes from, both of shape (…).
        """
        p = np.asarray(p, dtype=np.float64)
        if len(self.counts) == 1:
            return p[..., 0], np.zeros(p.shape[:-1], dtype=np.intp)
        table = _log_nominal(self)
        by_look = np.empty_like(p)
        for look in range(p.shape[-1]):
            with np.errstate(divide="ignore"):
                logs = np.interp(np.log(p[..., look]), table[look], np.log(_LEVELS), right=0.0)
            by_look[..., look] = np.exp(logs)
        at = np.argmin(by_look, axis=-1)
        return np.take_along_axis(by_look, at[..., None], axis=-1)[..., 0], at


@lru_cache
def _log_nominal(looks: Looks) -> Floats:
    """Logarithms of the nominal levels: shape (looks, ``_LEVELS``), ascending along the second axis."""
    levels = np.array([looks.nominal_levels(level) for level in _LEVELS]).T
    return np.asarray(np.log(np.maximum(levels, 1e-300)))


def nominal_levels(level: float, fractions: Sequence[float], spending: Callable[[float, float], float]) -> Floats:
    """Two-sided levels of the looks; each is the first to reject with the probability spent since the look before.

    With B(t) = Z √t a Brownian motion, the density of B over the paths that have not rejected is carried from look to
    look by numerical integration.

    Args:
        level: error rate of all looks together, in (0, 1).
        fractions: seeds of each look divided by those of the last, ascending, the last one 1.
        spending: error rate spent up to a fraction, a function of level and fraction.
    """
    before, found = 0.0, []
    nodes, mass = np.zeros(1), np.ones(1)  # all paths start at B(0) = 0
    for at, start in zip(fractions, (0.0, *fractions), strict=False):
        step, root = np.sqrt(at - start), np.sqrt(at)
        target = spending(level, at) - before
        z = _boundary(nodes, mass, step, root, target)
        found.append(2 * ndtr(-z))
        before += target
        half = min(z, _FAR) * root
        kernel = np.exp(-0.5 * ((half * _NODES[:, None] - nodes) / step) ** 2) / (step * np.sqrt(2 * np.pi))
        nodes, mass = half * _NODES, half * _WEIGHTS * (kernel @ mass)
    return np.array(found)


def _boundary(nodes: Floats, mass: Floats, step: float, root: float, target: float) -> float:
    """Find z such that |B| first exceeds z times ``root`` with probability ``target``, from ``mass`` at ``nodes``."""
    from scipy.optimize import brentq  # here, because the definitions would load it too

    def excess(z: float) -> float:
        crossing = mass @ (ndtr((-z * root - nodes) / step) + ndtr((nodes - z * root) / step))
        return float(np.log(max(crossing, 1e-320)) - np.log(target))

    return float(brentq(excess, 0.0, _FARTHEST)) if target > 1e-290 else _FARTHEST
