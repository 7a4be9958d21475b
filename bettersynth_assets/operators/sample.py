"""Field names of a row in Data-Juicer's format: ``text``, ``images``, stats and meta data."""

from __future__ import annotations

from typing import Any

STATS, META = "__dj__stats__", "__dj__meta__"
SIMILARITY = "image_text_similarity"
"""Stat: list of one cosine."""
EMBEDDING = "image_embedding"
"""Field: (D,) float32 image embedding; never stored in a table."""


def similarity_of(sample: dict[str, Any]) -> float:
    """Return a sample's image-text similarity, or minus infinity if its stats have none."""
    similarities = (sample.get(STATS) or {}).get(SIMILARITY)
    return float(similarities[0]) if similarities is not None and len(similarities) else float("-inf")
