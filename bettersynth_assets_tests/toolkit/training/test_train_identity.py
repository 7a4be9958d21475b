"""A plan of another training is refused; changes that only affect rounding resume with the same rows and losses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan, stage_of, stop_after
from toolkit.training.identity import training_identity
from toolkit.training.plan import PlanError, parse_plan

pytestmark = pytest.mark.slow

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"log_every": 1, "report_to": [], "checkpoint_every": 5, "checkpoint_limit": 3, "memory_limit_gib": 20}, {}),
    ({"device": "auto"}, {}),
    ({"speed": "reference"}, {}),
    ({}, {"per_device_batch": 1}),
    ({}, {"per_device_batch": 2, "accumulation": 2}),
    ({}, {"workers": 2}),
    ({}, {"pad_multiple": 16}),
    ({}, {"loss_group": 4}),
]
OTHER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"seed": 8}, {}, "seed is 7 there and 8 here"),
    ({"dtype": "bfloat16"}, {}, "dtype is 'float32' there"),
    ({"loss_average": "token"}, {}, "loss_average is 'micro_batch' there and 'token' here"),
    ({"cache_dir": "cache"}, {}, "cached is False there and True here"),
    ({}, {"global_batch": 8}, "global_batch is 4 there and 8 here"),
    ({}, {"learning_rate": 0.02}, "learning_rate is 0.01 there and 0.02 here"),
    ({}, {"max_steps": 5}, "max_steps is 4 there and 5 here"),
    ({}, {"warmup_ratio": 0.1}, "warmup_ratio"),
    ({}, {"loss_group": 2}, "loss_group is 4 there and 2 here"),
    ({}, {"image_aspect": "pad"}, "image_aspect"),
    ({}, {"trained": "projector+llm"}, "trained"),
    ({}, {"data": "other.json"}, r"stages\.pretrain\.data has different content"),
]


def _values(world: Path, output: Path, plan: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    values = {**plan_values(world, output, checkpoint_every=1), **plan}
    return stage_of(values, "pretrain", **{"max_steps": 4, "max_grad_norm": None, **stage})


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training stopped after its second step of four."""
    folder = tmp_path_factory.mktemp("identity") / "stopped"
    stop_after(_values(world, folder, {}, {}), 2)
    return folder


@pytest.fixture(scope="module")
def whole(world: Path, stopped: Path) -> Path:
    shutil.copytree(stopped, stopped.parent / "whole")
    run_plan(_values(world, stopped.parent / "whole", {}, {}))
    return stopped.parent / "whole"


@pytest.mark.parametrize(("plan", "stage"), SAME)
def test_changes_that_only_affect_rounding_are_the_same_training(
    world: Path, tmp_path: Path, plan: dict[str, Any], stage: dict[str, Any]
) -> None:
    plans = [_values(world, tmp_path / "a", {}, {}), _values(world, tmp_path / "b", plan, stage)]
    assert training_identity(parse_plan(plans[0])) == training_identity(parse_plan(plans[1]))


@pytest.mark.parametrize(
    ("plan", "stage"),
    [({"log_every": 1, "checkpoint_every": None}, {"per_device_batch": 2, "accumulation": 2, "workers": 1}),
     ({"speed": "reference"}, {"per_device_batch": 1, "pad_multiple": 16})],
)  # fmt: skip
def test_a_stopped_training_resumes_with_another_batch_per_device(
    world: Path, stopped: Path, whole: Path, tmp_path: Path, plan: dict[str, Any], stage: dict[str, Any]
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    events = run_plan(_values(world, tmp_path / "run", plan, stage))
    assert [event["step"] for event in events if event["event"] == "resume"] == [2]
    ours, theirs = (run / "pretrain" for run in (tmp_path / "run", whole))
    assert (ours / "samples.jsonl").read_bytes() == (theirs / "samples.jsonl").read_bytes()
    curves = [json.loads((folder / "manifest.json").read_text())["loss_curve"] for folder in (ours, theirs)]
    assert curves[0] == pytest.approx(curves[1], abs=2e-6)
    expected = load_file(theirs / "projector.safetensors")
    for name, value in load_file(ours / "projector.safetensors").items():
        assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    again = run_plan(_values(world, tmp_path / "run", {}, {}))
    assert [(event["event"], event["cached"]) for event in again] == [("done", True)]


@pytest.mark.parametrize(("plan", "stage", "words"), OTHER)
def test_settings_that_change_the_training_are_refused_by_name(
    world: Path, stopped: Path, tmp_path: Path, plan: dict[str, Any], stage: dict[str, Any], words: str
) -> None:
    if "data" in stage:
        rows = json.loads((world / "data.json").read_text())
        (tmp_path / "other.json").write_text(json.dumps(rows[1:]))
        stage = {"data": str(tmp_path / "other.json")}
    before = (stopped / "run.json").read_bytes()
    with pytest.raises(PlanError, match=f"another plan, data or base model: .*{words}.*; give an empty folder"):
        run_plan(_values(world, stopped, plan, stage))
    assert (stopped / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("plan", "stage", "words"),
    [({}, {"accumulation": 3}, "accumulation 3"), ({}, {"per_device_batch": 3}, "per_device_batch 3"),
     ({"device": "cuda"}, {}, "no GPU")],
)  # fmt: skip
def test_a_refused_plan_creates_no_folder_and_can_be_corrected(
    world: Path, tmp_path: Path, plan: dict[str, Any], stage: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        run_plan(_values(world, tmp_path / "run", plan, stage))
    assert not (tmp_path / "run").exists()
