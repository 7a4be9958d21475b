"""Shards as Dagster partitions. In: the profile's shard count. Out: static partitions, and tags for a run of all.

Partitions are static, because dynamic partitions have no keys before the first run. ``records.seed_file`` assigns rows
to shards.
"""

from __future__ import annotations

import dagster as dg

from bettersynth_assets.config.names import RANGE_TAGS
from bettersynth_assets.config.profile import Profile


def shard_partitions(profile: Profile) -> dg.StaticPartitionsDefinition:
    """Return partitions with one key per shard."""
    return dg.StaticPartitionsDefinition(profile.shard_names())


def all_shards(profile: Profile) -> dict[str, str]:
    """Return the tags of a run that covers every shard."""
    names = profile.shard_names()
    return dict(zip(RANGE_TAGS, (names[0], names[-1]), strict=True))
