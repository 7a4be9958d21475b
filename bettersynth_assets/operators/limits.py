"""Limits that depend on all scores of the seed file. In: a list, seed_profile. Out: the list with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.recipe_lists import entry_of

SCORES_FILE = "scores.parquet"
"""Written by seed_profile next to its rows: columns id (string) and clip_score (float32), in shard order."""


def with_limits(entries: list[Operator], seed_profile: Manifest) -> list[Operator]:
    """Resolve a ``process:`` list with limits from the seed file's scores (see ``resolve_limits``)."""
    if not entries:
        return []
    scores, ids = _read_scores(seed_profile.file(SCORES_FILE))
    return resolve_limits(entries, scores, ids)


@lru_cache(maxsize=1)
def _read_scores(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Read scores and ids; the path contains the version's key, so its content never changes."""
    table = pq.read_table(path, columns=["id", "clip_score"])
    return table.column("clip_score").to_numpy(), table.column("id").to_pylist()


def resolve_limits(entries: Sequence[Operator], scores: NDArray[np.float32], ids: Sequence[str]) -> list[Operator]:
    """Replace the methods by which operators choose limits with numbers.

    Args:
        entries: a ``process:`` list.
        scores: cosines of all rows of the seed file, shape (n,).
        ids: their ids, in the same order.

    Returns:
        The list with ``min_score`` and ``max_score`` (and ``last_tied_id`` if a tie is cut). It is plain JSON, and a
        filtered shard depends on nothing else but its rows and models.
    """
    resolved: list[Operator] = []
    for name, arguments in map(entry_of, entries):
        limits = spec_of(name).limits
        resolved.append({name: dict(limits(arguments, scores, ids)) if limits else arguments})
    return resolved
