"""A blocking check holds for every reader of a set: selected or built as a dependency, with workers or without."""

from dataclasses import replace

import dagster as dg
import pytest

from bettersynth_assets.engine.gate import GateError
from bettersynth_assets.engine.rules import Evidence, Rule, Verdict
from bettersynth_assets_tests.helpers.run_results import SHARDS, failure, partitions_of
from bettersynth_assets_tests.helpers.worker_graph import Run


def spoil(data_root, *shards: str) -> None:
    """Have four of a shard's five rows quarantined; the limit is 20%."""
    for shard in shards:
        (data_root / f"spoil-{shard}").touch()


def checks(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult, name: str) -> dict[str, bool]:
    """What the event log, and so the UI, says of a set's checks; a failed step yields no events of its own."""
    entries = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.get_dagster_event().asset_check_evaluation_data for entry in entries]
    return {check.check_name: check.passed for check in found if check.asset_key == dg.AssetKey(name)}


@pytest.mark.parametrize("selected", ["total", "copies"])
def test_a_set_built_as_a_dependency_is_judged_before_it_is_read(materialize, instance, data_root, selected):
    spoil(data_root, *SHARDS)
    result = materialize(selected)
    assert not result.success
    words = failure(result, selected)
    assert "rows fails its blocking check quarantine_share, so nothing is built from it: 12 of 15 rows" in words
    assert "raise the limit in the profile" in words
    assert partitions_of(instance, "rows") == SHARDS
    assert partitions_of(instance, "copies") == []
    assert checks(instance, result, "rows") == {"rows_conserved": True, "quarantine_share": False}


def test_a_set_found_up_to_date_is_judged_too(materialize, data_root):
    spoil(data_root, *SHARDS)
    assert not materialize("rows").success
    assert "quarantine_share" in failure(materialize("copies"), "copies")


def test_shards_are_judged_together_not_one_by_one(materialize, instance, data_root):
    from bettersynth_assets_tests.helpers import fake_graph

    fake_graph.write_profile(data_root / "tiny.yaml", limits={"max_quarantined_share": 0.5})
    spoil(data_root, SHARDS[0])  # 80% of its own rows, 40% of all
    assert materialize("total").success
    assert partitions_of(instance, "copies") == SHARDS


def test_the_checks_of_a_dependency_that_was_built_are_shown_as_its_own(materialize, instance):
    result = materialize("total")
    assert checks(instance, result, "rows") == {"rows_conserved": True, "quarantine_share": True}
    assert checks(instance, result, "copies") == {"rows_conserved": True, "schema": True}


def too_little(evidence: Evidence) -> Verdict:
    return Verdict(passed=False, words=f"{len(evidence.manifests)} shards")


@pytest.mark.parametrize("judged", ["numbers", "squares"])
def test_workers_get_no_shard_of_a_set_that_fails(tmp_path, judged):
    run = Run(tmp_path)
    rule = Rule(name="enough", description="", judge=too_little)
    stages = tuple(replace(stage, rules=(rule,)) if stage.name == judged else stage for stage in run.job.stages)
    run.pipeline = replace(run.job, stages=stages).pipeline(log=run.log.append)
    with pytest.raises(GateError, match=f"{judged} fails its blocking check enough.*: 4 shards"):
        run.prepare("scaled")
    assert {stage for stage, *_ in run.worked()} == {"numbers", judged}
