"""Correction for many comparisons in one experiment."""

from __future__ import annotations

import numpy as np

from bettersynth_assets.experiments.difference import Floats


def holm(p: Floats) -> Floats:
    """Adjust the p-values of a family: the chance of one or more false rejections stays under the level.

    With p_(1) <= … <= p_(m): adjusted p_(i) = min(1, max over j <= i of (m - j + 1) p_(j)). Holds for dependent
    p-values, as of arms that share a baseline. Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    Args:
        p: shape (…, m); the last axis is the family. A declared comparison that cannot be made yet enters as 1.

    Returns:
        Adjusted p-values in the same order.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, axis=-1, kind="stable")
    m = p.shape[-1]
    raised = np.take_along_axis(p, order, axis=-1) * np.arange(m, 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(raised, axis=-1))
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted
