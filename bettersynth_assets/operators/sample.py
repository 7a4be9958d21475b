"""Names of a row's fields as Data-Juicer's operators see it: ``text``, ``images``, stats and meta data."""

from __future__ import annotations

from typing import Any

STATS, META = "__dj__stats__", "__dj__meta__"
SIMILARITY = "image_text_similarity"
"""Stat: list of one cosine."""
EMBEDDING = "image_embedding"
"""Field: (D,) float32, of the image; never in a table."""


def similarity_of(sample: dict[str, Any]) -> float:
    """A sample's image-text similarity where its stats hold one, else minus infinity."""
    found = (sample.get(STATS) or {}).get(SIMILARITY)
    return float(found[0]) if found is not None and len(found) else float("-inf")
