"""Killed trainings resume bit-exactly, and every distribution of a step over processes trains the same model."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.spread_training import (
    STAGES,
    assert_equal_to_rounding,
    results,
    run_all,
    write_plan,
)
from toolkit.files import json_sha256
from toolkit.models.mgm.tiny import save_tiny
from toolkit.training import folder as output_folder
from toolkit.training.checkpoint import newest
from toolkit.training.identity import training_identity
from toolkit.training.plan import PlanError, parse_plan
from toolkit.training.random_state import random_state, set_random_state
from toolkit.training.session import train

pytestmark = pytest.mark.slow

KILLS = {
    "alone": ["step:pretrain:1", "write:pretrain:2", "publish:pretrain:3", "weights:pretrain", "step:finetune:3"],
    "two": ["step:pretrain:3", "write:finetune:2"],
    "zero2": ["write:pretrain:2", "step:finetune:1"],
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and a small LLaVA set of unequal lengths."""
    folder = tmp_path_factory.mktemp("resume")
    save_tiny(folder / "base")
    write_rows(folder, pictures=8, text_only=8)
    return folder


@pytest.fixture(scope="session")
def trained(folder: Path) -> Path:
    """All trainings of this file; one process runs them, because its imports take longer than a training.

    ``one`` is an uninterrupted process, and ``cut`` the same training killed after three steps. ``alone`` is killed at
    each point. Then two processes, plain and with ZeRO-2, each without and with kills; and two that resume ``cut``.
    """
    write_plan(folder, "one", checkpoint_every=None)
    write_plan(folder, "cut", checkpoint_limit=2)
    write_plan(folder, "alone")
    write_plan(folder, "taken-over", checkpoint_limit=2)
    runs = [("one", 1, "none"), ("cut", 1, "step:pretrain:3")]
    runs += [("alone", 1, point) for point in [*KILLS["alone"], "none"]]
    # Killed at the same step as ``cut``, in its own folder.
    runs += [("taken-over", 1, "step:pretrain:3"), ("taken-over", 2, "none")]
    for name, zero in (("two", False), ("zero2", True)):
        write_plan(folder, f"{name}-peace", deepspeed=zero, checkpoint_every=None)
        write_plan(folder, name, deepspeed=zero)
        runs += [(f"{name}-peace", 2, "none"), *[(name, 2, point) for point in [*KILLS[name], "none"]]]
    run_all(folder, "all", runs)
    return folder


def test_a_folder_in_use_is_refused_until_the_other_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (tmp_path / "run.json").write_text("{}")
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True)"
    other = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(tmp_path / "run.json")]
    monkeypatch.setattr(output_folder, "LOCK_WAIT", 0.0)
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "held\n"
        with pytest.raises(PlanError, match="is in use by another run"), output_folder.alone_in(tmp_path):
            pass
        monkeypatch.setenv("RANK", "1")
        with output_folder.alone_in(tmp_path):
            pass  # the first process of a launch acts for all
        monkeypatch.delenv("RANK")
        running.kill()
        running.wait()
        with output_folder.alone_in(tmp_path):
            assert (tmp_path / "run.json").read_text() == "{}"


@pytest.fixture(scope="session")
def one(trained: Path) -> Path:
    return trained / "one"


def _same(found: Path, expected: Path) -> None:
    for stage, (curve, weights) in results(found).items():
        expected_curve, expected_weights = results(expected)[stage]
        assert curve == expected_curve
        assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())


def test_a_training_killed_at_any_point_ends_with_the_same_losses_and_bits(one: Path, trained: Path) -> None:
    alone = trained / "alone"
    _same(alone, one)
    manifests = [json.loads((alone / stage / "manifest.json").read_text()) for stage in STAGES]
    # Step 4 ends the stage, so the newest checkpoint before its results are written is that of step 3. Step 2's was
    # never written completely, and step 3's was lost once between the last write and the rename.
    assert [m["resumed_from"] for m in manifests] == [[1, 2, 3], [3]]
    assert not list(alone.rglob("checkpoints"))


@pytest.mark.parametrize("way", ["two", "zero2"])
def test_two_killed_processes_end_with_the_same_losses_and_bits(trained: Path, way: str) -> None:
    _same(trained / way, trained / f"{way}-peace")
    manifest = json.loads((trained / way / "finetune" / "manifest.json").read_text())
    assert manifest["processes"] == 2 and manifest["resumed_from"] == [1]
    assert ("deepspeed" in manifest["versions"]) == (way == "zero2")


def test_two_processes_can_resume_the_run_of_one(one: Path, trained: Path) -> None:
    manifest = json.loads((trained / "taken-over" / "pretrain" / "manifest.json").read_text())
    assert manifest["processes"] == 2 and manifest["resumed_from"] == [3]
    assert_equal_to_rounding(trained / "taken-over", one)


@pytest.mark.parametrize("way", ["two-peace", "zero2-peace"])
def test_two_processes_with_and_without_zero2_give_the_results_of_one(one: Path, trained: Path, way: str) -> None:
    assert_equal_to_rounding(trained / way, one)


def test_neither_accumulation_nor_dealing_by_length_changes_the_trained_weights(
    folder: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(parse_plan(json.loads(write_plan(folder, "at-once", per_device_batch=8).read_text())), print)
    assert_equal_to_rounding(folder / "at-once", one)
    monkeypatch.setattr("toolkit.data.exposures.deal", lambda lengths, *_: torch.arange(len(lengths)).numpy())
    train(parse_plan(json.loads(write_plan(folder, "undealt").read_text())), print)
    assert_equal_to_rounding(folder / "undealt", one)
    lists = [(run / "pretrain" / "samples.jsonl").read_text().splitlines() for run in (one, folder / "undealt")]
    steps = [[json.loads(line) for line in lines] for lines in lists]
    assert steps[0] == steps[1]


def _undamaged(path: Path, message: str) -> None:
    raise AssertionError(message)


def test_a_checkpoint_contains_only_trained_weights_and_belongs_to_its_run(folder: Path, one: Path) -> None:
    plan = parse_plan(json.loads((folder / "cut.json").read_text()))
    stage = folder / "cut" / "pretrain"
    kept = sorted(path.name for path in (stage / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003"]
    found = newest(stage, json_sha256(training_identity(plan)), _undamaged)
    assert found is not None and (found.step, len(found.losses), found.processes) == (3, 3, 1)
    assert set(load_file(found.path / "trained.safetensors")) == set(results(one)["pretrain"][1])
    with pytest.raises(PlanError, match="belongs to another plan"):
        newest(stage, "another", _undamaged)
    other = write_plan(folder, "other", seed=8, output_dir=str(folder / "cut"))
    with pytest.raises(PlanError, match="another plan, data or base model: seed is 7 there and 8 here; give an empty"):
        train(parse_plan(json.loads(other.read_text())), print)


def test_a_resumed_run_reads_no_image_of_a_finished_step(folder: Path, one: Path) -> None:
    shutil.copytree(folder / "cut", folder / "skip")
    plan = write_plan(folder, "skip", checkpoint_limit=2)
    last = json.loads((one / "pretrain" / "samples.jsonl").read_text().splitlines()[-1])
    hidden = [path for path in (folder / "images").iterdir() if f"p{path.stem}" not in last]
    assert hidden
    contents = {path: path.read_bytes() for path in hidden}
    for path in hidden:
        path.write_bytes(b"no picture")
    try:
        # The first stage finishes without the images of its first three steps; the second stage cannot read them.
        with pytest.raises(ValueError, match="cannot be read"):
            train(parse_plan(json.loads(plan.read_text())), print)
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert (folder / "skip" / "pretrain" / "manifest.json").is_file()


def test_random_states_can_be_saved_and_restored(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    assert draw() != expected
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected
