"""All scores of the seed, for limits. In: seed_profile's manifest. Out: ids and scores of every shard's rows."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bettersynth_assets.config.recipe import Operator
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.operators.data_juicer import resolve_limits

SCORES_FILE = "scores.parquet"
"""Written by seed_profile beside its rows: columns id (string) and clip_score (float32), all shards, in shard order."""


def with_limits(entries: list[Operator], seed_profile: Manifest) -> list[Operator]:
    """A ``process:`` list with the numbers that the seed's scores give it (see ``data_juicer.resolve_limits``)."""
    if not entries:
        return []
    scores, ids = _read(seed_profile.file(SCORES_FILE))
    return resolve_limits(entries, scores, ids)


@lru_cache(maxsize=1)
def _read(path: Path) -> tuple[Any, list[str]]:
    """Scores and ids; the path holds the version's key, so that one path is one content."""
    table = pq.read_table(path, columns=["id", "clip_score"])
    return table.column("clip_score").to_numpy(), table.column("id").to_pylist()
