"""Summary statistics of one measure. In: values. Out: the statistics that ``seed_profile`` stores. Pure, exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 20
SHOWN = (0.5, 99.5)
"""Percentiles that bound a histogram's bins."""
SIGMAS = 3


def describe(values: Any) -> dict[str, Any]:
    """Compute mean, spread, percentiles and a histogram whose bins outliers do not stretch.

    Args:
        values: values of one measure, shape (n,), n >= 1, no NaN.

    Returns:
        ``rows``, ``mean``, ``sd`` (of the population), ``min``, ``max``, ``k_sigma`` (mean -+ 3 sd), ``percentiles``
        by name, ``histogram`` with ``edges`` and ``counts``, and ``outliers``: the number of rows ``below`` and
        ``above`` the edges. Outliers are counted in the first and last bin, so that the counts add up to ``rows``.
        Without the bounds, one image of 12,192 px among images of 336 px would put all others into one bin.
    """
    numbers = np.asarray(values, dtype=np.float64)
    assert numbers.size and np.isfinite(numbers).all()
    mean, sd = float(numbers.mean()), float(numbers.std())
    edges = _edges(numbers)
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), bins=edges)
    return {
        "rows": int(numbers.size),
        "mean": mean,
        "sd": sd,
        "min": float(numbers.min()),
        "max": float(numbers.max()),
        "k_sigma": [mean - SIGMAS * sd, mean + SIGMAS * sd],
        "percentiles": {str(point): float(np.percentile(numbers, point)) for point in PERCENTILES},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "outliers": {"below": int((numbers < edges[0]).sum()), "above": int((numbers > edges[-1]).sum())},
    }


def _edges(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of at most 20 bins; for integers, of integer width, so that bins hold equally many values."""
    low, high = (float(edge) for edge in np.percentile(numbers, SHOWN))
    if (numbers == np.rint(numbers)).all():
        low, high = np.floor(low), np.ceil(high)
        width = int(np.ceil((high - low + 1) / BINS))
        return low - 0.5 + width * np.arange(int(np.ceil((high - low + 1) / width)) + 1)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)
