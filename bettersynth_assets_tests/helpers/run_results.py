"""Queries of the history of a run of the small graph."""

from __future__ import annotations

import dagster as dg

SHARDS = ["shard-00000", "shard-00001", "shard-00002"]


def partitions_of(instance: dg.DagsterInstance, name: str) -> list[str]:
    return sorted(instance.get_materialized_partitions(dg.AssetKey.from_user_string(name)))


def failure(result: dg.ExecuteInProcessResult, name: str) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure and event.step_key == name]
    return event.event_specific_data.user_failure_data.description
