"""Child processes: ordered reports, errors with reasons, one visible GPU unless a launcher uses more."""

from pathlib import Path

import pytest

from bettersynth_assets.scheduler.child_process import ChildError, run_child
from bettersynth_assets.scheduler.lease import MASK
from bettersynth_assets.stages.training_log import Reporter
from toolkit.process import ChildFailedError

MODULE = "bettersynth_assets_tests.helpers.fake_child"


def run(tmp_path, *plans, **more):
    """Return events and log lines of a child that receives ``plans``."""
    events, lines = [], []
    files = {tmp_path / f"plan-{index}.json": plan for index, plan in enumerate(plans)}
    run_child(MODULE, files, on_event=events.append, log=lines.append, **more)
    return events, lines


def test_reports_and_other_lines_arrive_in_order(tmp_path):
    events, lines = run(tmp_path, {"prints": ['{"event": "a"}', "plain", '{"broken"']}, {"prints": ['{"event": "b"}']})
    assert [event["event"] for event in events] == ["a", "b"]
    assert lines == ["plain", '{"broken"']


def test_a_childs_error_is_reported_without_its_traceback(tmp_path):
    with pytest.raises(ChildError, match=r"fake_child: row 7 has no answer$"):
        run(tmp_path, {"fault": "row 7 has no answer", "code": 2})


def test_a_child_that_dies_without_a_report_gives_its_exit_code_and_last_lines(tmp_path):
    with pytest.raises(ChildFailedError, match="exit code 3") as caught:
        run(tmp_path, {"code": 3})
    assert caught.value.stderr_tail == ["last words"]


def test_a_single_process_sees_one_of_the_leased_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv(MASK, "3,5")
    assert run(tmp_path, {"asks": MASK})[0] == [{"event": "answer", "value": "3"}]


def test_several_plans_see_all_leased_gpus_if_they_run_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv(MASK, "3,5")
    asks = {"asks": MASK}
    assert [event["value"] for event in run(tmp_path, asks, asks)[0]] == ["3", "3"]
    assert [event["value"] for event in run(tmp_path, asks, asks, on_all_gpus=True)[0]] == ["3,5", "3,5"]
    assert [event["value"] for event in run(tmp_path, asks, on_all_gpus=True)[0]] == ["3"]


def test_a_launcher_replaces_python_and_sees_all_leased_gpus(tmp_path, monkeypatch):
    import sys

    monkeypatch.setenv(MASK, "3,5")
    events, _ = run(tmp_path, {"asks": MASK}, launcher=[sys.executable, "-X", "dev", "-m"])
    assert events == [{"event": "answer", "value": "3,5"}]


def test_training_events_are_logged_by_seed():
    logged: list[str] = []
    done: list[Path] = []
    folders = {Path("runs/0a"): 4, Path("runs/7b"): 7}
    report = Reporter("budgeted_set", logged.append, folders, done.append)
    four, seven = ({"output_dir": str(folder)} for folder in folders)
    report({**four, "event": "start", "stage": "pretrain", "steps": 9, "rows": 12})
    report({**four, "event": "step", "stage": "pretrain", "step": 9, "steps": 9, "loss": 1.25, "samples_per_s": 3.0})
    report({**four, "event": "done", "cached": False, "seconds": 2.0})
    report({**seven, "event": "done", "cached": True, "seconds": 0.0})
    assert logged == [
        "budgeted_set seed 4 pretrain: 9 steps over 12 rows",
        "budgeted_set seed 4 pretrain: step 9/9, loss 1.2500, 3.0 samples/s",
        "budgeted_set seed 4: finished in 2.0 s",
        "budgeted_set seed 7: finished earlier",
    ]
    assert done == list(folders)
