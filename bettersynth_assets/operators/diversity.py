"""Choosing diverse rows. In: one embedding per row. Out: each row's cluster, and its rank within it.

K-means on normalised embeddings (k-means++ initialisation, Lloyd's iterations) is fitted on at most
``ROWS_PER_CLUSTER`` rows per cluster, then all rows are assigned. Quotas per cluster then fill the requested number of
rows: small clusters contribute all their rows, all others equally many (semifinal recipe of team TIA: embeddings and
k-means). All randomness comes from one seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROWS_PER_CLUSTER = 256
_CHUNK = 16_384


def clusters_of(
    embeddings: NDArray[np.float32], clusters: int, *, random_seed: int, steps: int = 25
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Cluster embeddings.

    Args:
        embeddings: shape (n, d), any norm; only directions count.
        clusters: k, at least 1; at most n clusters are made.
        random_seed: seed of the initialisation and of the rows used for fitting.
        steps: maximum number of Lloyd's iterations; stops earlier on convergence.

    Returns:
        Cluster of each row, (n,), and its squared distance to the cluster's centre, (n,).
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    points = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    count = min(clusters, len(points))
    rng = np.random.default_rng(random_seed)
    fitted = points
    if len(points) > count * ROWS_PER_CLUSTER:
        fitted = points[np.sort(rng.choice(len(points), count * ROWS_PER_CLUSTER, replace=False))]
    centres = _initial_centres(fitted, count, rng)
    previous = np.full(len(fitted), -1)
    for _ in range(steps):
        labels, _ = _nearest_centres(fitted, centres)
        if np.array_equal(labels, previous):
            break
        previous = labels
        sums = np.stack([fitted[labels == label].sum(0, dtype=np.float64) for label in range(count)])
        sizes = np.bincount(labels, minlength=count)[:, None]
        # Empty clusters keep their centres.
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(np.float32)
    return _nearest_centres(points, centres)


def _initial_centres(points: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """k-means++ (Arthur and Vassilvitskii 2007): distant rows are more likely to be the next centre."""
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1, dtype=np.float64))
        total = nearest.sum()
        # All rows coincide with centres, so any row will do.
        row = rng.choice(len(points), p=nearest / total) if total > 0 else rng.integers(len(points))
        chosen.append(int(row))
    return points[chosen]


def _nearest_centres(
    points: NDArray[np.float32], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    labels, distances = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    for first in range(0, len(points), _CHUNK):
        chunk = points[first : first + _CHUNK]
        squares = (chunk**2).sum(1)[:, None] - 2 * chunk @ centres.T + (centres**2).sum(1)[None]
        labels[first : first + _CHUNK] = squares.argmin(1)
        distances[first : first + _CHUNK] = squares.min(1)
    return labels, distances


def ranks_in_clusters(labels: NDArray[np.int64], preferences: Sequence[float]) -> NDArray[np.int64]:
    """Rank rows within their cluster, 0 for the most preferred; ties keep the rows' order."""
    order = np.lexsort((np.arange(len(labels)), -np.asarray(preferences, np.float64), labels))
    _, firsts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(firsts, sizes)
    return ranks


def quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Compute how many rows each cluster contributes.

    Args:
        sizes: rows of each cluster.
        total: number of rows; all rows if there are fewer.

    Returns:
        One number per cluster, at most its size, ``min(total, sum(sizes))`` in total: as equal as the sizes permit,
        with the remainder assigned one each to the largest clusters.
    """
    quota = [0] * len(sizes)
    remaining = min(total, sum(sizes))
    open_clusters = sorted(
        (index for index, size in enumerate(sizes) if size), key=lambda cluster: (sizes[cluster], cluster)
    )
    while open_clusters:
        share = remaining // len(open_clusters)
        index = open_clusters[0]
        if sizes[index] > share:
            extra = remaining - share * len(open_clusters)
            for rank, cluster in enumerate(reversed(open_clusters)):
                quota[cluster] = share + (rank < extra)
            break
        quota[index] = sizes[index]
        remaining -= sizes[index]
        open_clusters.pop(0)
    return quota
