"""A blocking check applies to every reader of a set: selected or built as a dependency, with or without workers."""

from dataclasses import replace

import dagster as dg
import pytest

from bettersynth_assets.engine.gate import GateError
from bettersynth_assets.engine.rules import Evidence, Rule, Verdict
from bettersynth_assets_tests.helpers.run_results import SHARDS, failure, partitions_of
from bettersynth_assets_tests.helpers.worker_graph import Run


def spoil(data_root, *shards: str) -> None:
    """Quarantine four of a shard's five rows; the limit is 20%."""
    for shard in shards:
        (data_root / f"spoil-{shard}").touch()


def checks(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, name: str) -> dict[str, bool]:
    """Return a set's checks from the event log, as the UI shows them; a failed step yields no events itself."""
    entries = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.get_dagster_event().asset_check_evaluation_data for entry in entries]
    return {check.check_name: check.passed for check in found if check.asset_key == dg.AssetKey(name)}


@pytest.mark.parametrize("selected", ["total", "copies"])
def test_a_set_built_as_a_dependency_is_checked_before_it_is_read(materialize, instance, data_root, selected):
    spoil(data_root, *SHARDS)
    result = materialize(selected)
    assert not result.success
    words = failure(result, selected)
    assert "rows fails its blocking check quarantine_share, so nothing is built from it: 12 of 15 rows" in words
    assert "raise the limit in the profile" in words
    assert partitions_of(instance, "rows") == SHARDS
    assert partitions_of(instance, "copies") == []
    assert checks(instance, result, "rows") == {"rows_conserved": True, "quarantine_share": False}


@pytest.mark.slow
def test_an_up_to_date_set_is_checked_too(materialize, data_root):
    spoil(data_root, *SHARDS)
    assert not materialize("rows").success
    assert "quarantine_share" in failure(materialize("copies"), "copies")


@pytest.mark.slow
def test_shards_are_checked_together_and_not_one_by_one(materialize, instance, data_root):
    from bettersynth_assets_tests.helpers import fake_graph

    fake_graph.write_profile(data_root / "tiny.yaml", limits={"max_quarantined_share": 0.5})
    spoil(data_root, SHARDS[0])  # 80% of this shard's rows, 40% of all rows
    assert materialize("total").success
    assert partitions_of(instance, "copies") == SHARDS


def test_the_checks_of_a_built_dependency_are_reported_for_that_asset(materialize, instance):
    result = materialize("total")
    assert checks(instance, result, "rows") == {"rows_conserved": True, "quarantine_share": True}
    assert checks(instance, result, "copies") == {"rows_conserved": True, "schema": True}


def too_little(evidence: Evidence) -> Verdict:
    return Verdict(passed=False, summary=f"{len(evidence.manifests)} shards")


@pytest.mark.slow
@pytest.mark.parametrize("judged", ["numbers", "squares"])
def test_workers_get_no_shard_of_a_set_that_fails_its_check(tmp_path, judged):
    run = Run(tmp_path)
    rule = Rule(name="enough", description="", judge=too_little)
    stages = tuple(replace(stage, rules=(rule,)) if stage.name == judged else stage for stage in run.job.stages)
    run.pipeline = replace(run.job, stages=stages).pipeline(log=run.log.append)
    with pytest.raises(GateError, match=f"{judged} fails its blocking check enough.*: 4 shards"):
        run.prepare("scaled")
    assert {stage for stage, *_ in run.worked()} == {"numbers", judged}
