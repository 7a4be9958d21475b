"""Shards as Dagster partitions. In: the profile's shard count. Out: static partitions and the tags of a run over all.

Static, because dynamic partitions have no keys before the first run. What does not belong here: how rows are sharded.
"""

from __future__ import annotations

import dagster as dg

from bettersynth_assets.config.names import RANGE_TAGS
from bettersynth_assets.config.profile import Profile


def shard_partitions(profile: Profile) -> dg.StaticPartitionsDefinition:
    """One partition per shard."""
    return dg.StaticPartitionsDefinition(profile.shard_names())


def all_shards(profile: Profile) -> dict[str, str]:
    """Tags that make one run cover every shard."""
    names = profile.shard_names()
    return dict(zip(RANGE_TAGS, (names[0], names[-1]), strict=True))
