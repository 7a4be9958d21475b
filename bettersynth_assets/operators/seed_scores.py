"""All scores of the seed file, for limits. In: seed_profile's manifest. Out: ids and scores of all shards' rows."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.operators.data_juicer import resolve_limits

SCORES_FILE = "scores.parquet"
"""Written by seed_profile next to its rows: columns id (string) and clip_score (float32), in shard order."""


def with_limits(entries: list[Operator], seed_profile: Manifest) -> list[Operator]:
    """Resolve a ``process:`` list with limits from the seed file's scores (see ``data_juicer.resolve_limits``)."""
    if not entries:
        return []
    scores, ids = _read_scores(seed_profile.file(SCORES_FILE))
    return resolve_limits(entries, scores, ids)


@lru_cache(maxsize=1)
def _read_scores(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Read scores and ids; the path contains the version's key, so its content never changes."""
    table = pq.read_table(path, columns=["id", "clip_score"])
    return table.column("clip_score").to_numpy(), table.column("id").to_pylist()
