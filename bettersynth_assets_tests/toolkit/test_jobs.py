"""Plans in parallel processes: all are run, failures are raised, small models use one core."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from toolkit.jobs import MASK, SMALL_MODEL, devices_for, jobs_for, limit_threads, run_all, run_on_devices

FAKE = "bettersynth_assets_tests.helpers.fake_child"


def _note(item: str, folder: Path) -> None:
    if item == "bad":
        raise ValueError("item bad cannot be done")
    (folder / item).write_text(str(os.getpid()))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_item_is_processed(tmp_path: Path, jobs: int) -> None:
    run_all(partial(_note, folder=tmp_path), ["a", "b", "c"], jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    here = {path.read_text() == str(os.getpid()) for path in tmp_path.iterdir()}
    assert here == {jobs == 1}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_is_raised_unchanged(tmp_path: Path, jobs: int) -> None:
    with pytest.raises(ValueError, match="item bad"):
        run_all(partial(_note, folder=tmp_path), ["bad", "a"], jobs)


def test_the_cpu_gets_a_job_per_plan_or_core_and_other_devices_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert [jobs_for(items, on_cpu=True) for items in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 3, 2, 3]  # 3: none waits alone
    assert jobs_for(5, on_cpu=False) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert jobs_for(5, on_cpu=True) == 1


@pytest.mark.parametrize(
    ("mask", "items", "devices"),
    [("3,5", 3, ["3", "5"]), ("3,5,7", 2, ["3", "5"]), ("3,5", 1, []), ("3", 4, []), ("", 4, []), ("3,-1,5", 4, [])],
)
def test_plans_are_dealt_to_the_visible_gpus_if_there_are_several(
    monkeypatch: pytest.MonkeyPatch, mask: str, items: int, devices: list[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(MASK, mask)
    assert devices_for(items, on_cpu=False) == devices
    assert devices_for(items, on_cpu=True) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert devices_for(items, on_cpu=False) == []


def test_a_process_per_gpu_sees_its_gpu_and_its_plans(tmp_path: Path) -> None:
    plans = [tmp_path / f"{number}.json" for number in range(3)]
    for plan in plans:
        plan.write_text(json.dumps({"asks": MASK}))
    with (tmp_path / "out").open("w") as out:
        assert run_on_devices(FAKE, plans, ["3", "5"], stdout=out.fileno()) == 0
    events = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert sorted(event["value"] for event in events) == ["3", "3", "5"]
    plans[0].write_text(json.dumps({"code": 3}))
    with (tmp_path / "out").open("w") as out:
        assert run_on_devices(FAKE, plans, ["3", "5"], stdout=out.fileno()) == 3
    assert json.loads((tmp_path / "out").read_text())["value"] == "5", "the other GPU's plan was interrupted"


def test_only_a_small_model_on_the_cpu_is_limited_to_one_core() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        limit_threads(SMALL_MODEL, on_cpu=True)
        limit_threads(10, on_cpu=False)
        assert torch.get_num_threads() == 2
        limit_threads(10, on_cpu=True)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
