"""Damaged files of a training are named and not used: checkpoints, markers, results, cached features."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from bettersynth_assets_tests.helpers.llava_rows import PROCESSOR
from bettersynth_assets_tests.helpers.small_training import Event, plan_values, run_plan, stage_of, stop_after
from toolkit.models.mgm.tiny import tiny_mgm
from toolkit.models.mgm.vision.feature_cache import FeatureCache, FeatureError
from toolkit.training.file_record import record_files
from toolkit.training.plan import PlanError
from toolkit.training.torch_files import CheckpointError, weights_only

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    """A projector trained in four steps without interruption."""
    run_plan(_values(world, world / "whole"))
    return world / "whole"


@pytest.fixture(scope="module")
def stopped(world: Path) -> Path:
    """The same training stopped after step 3, with the checkpoints of steps 2 and 3."""
    stop_after(_values(world, world / "stopped"), 3)
    assert sorted(p.name for p in (world / "stopped" / "pretrain" / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000003",
    ]
    return world / "stopped"


def _values(world: Path, output: Path) -> dict[str, Any]:
    values = plan_values(world, output, checkpoint_every=1, checkpoint_limit=2)
    return stage_of(values, "pretrain", max_steps=4)


def _halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _unreadable(file: Path) -> None:
    file.write_text('{"step": 3}')


def _damaged(events: list[Event]) -> list[str]:
    return [event["message"] for event in events if event["event"] == "damaged"]


def _same(one: Path, other: Path) -> None:
    for name in ("projector.safetensors", "samples.jsonl"):
        assert (one / "pretrain" / name).read_bytes() == (other / "pretrain" / name).read_bytes()
    curves = [json.loads((run / "pretrain" / "manifest.json").read_text())["loss_curve"] for run in (one, other)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        ("trained.safetensors", _halve, "has "),
        ("optimizer.pt", Path.unlink, "is missing"),
        ("scheduler.pt", _flip, "has changed since it was written"),
        ("complete.json", _empty, "is empty"),
        ("complete.json", _unreadable, "is not a JSON object with key"),
        ("complete.json", Path.unlink, "is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    world: Path, whole: Path, stopped: Path, tmp_path: Path, file: str, harm: Any, words: str
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    harm(tmp_path / "run" / "pretrain" / "checkpoints" / "step-000003" / file)
    events = run_plan(_values(world, tmp_path / "run"))
    (message,) = _damaged(events)
    assert f"step-000003/{file} {words}" in message and message.endswith("checkpoint step-000003 is not used")
    assert [event["step"] for event in events if event["event"] == "resume"] == [2]
    _same(tmp_path / "run", whole)


def test_without_a_valid_checkpoint_the_stage_restarts_and_logs_it(
    world: Path, whole: Path, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    for folder in (tmp_path / "run" / "pretrain" / "checkpoints").iterdir():
        _halve(folder / "optimizer.pt")
    events = run_plan(_values(world, tmp_path / "run"))
    assert _damaged(events)[2:] == ["no intact checkpoint is left; the phase restarts from its first step"]
    assert not [event for event in events if event["event"] == "resume"]
    _same(tmp_path / "run", whole)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_an_unusable_run_file_is_named(world: Path, stopped: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(PlanError, match=r"output_dir: .*run\.json is .*; restore run\.json, or give an empty folder"):
        run_plan(_values(world, tmp_path / "run"))


@pytest.mark.parametrize(
    ("file", "harm"),
    [("manifest.json", _empty), ("manifest.json", _unreadable), ("projector.safetensors", _halve),
     ("projector.safetensors", _flip), ("config.json", _empty), ("samples.jsonl", Path.unlink)],
)  # fmt: skip
def test_a_damaged_result_is_named_and_trained_again(
    world: Path, whole: Path, tmp_path: Path, file: str, harm: Any
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    harm(tmp_path / "run" / "pretrain" / file)
    events = run_plan(_values(world, tmp_path / "run"))
    assert all(f"pretrain/{file} " in message and "trained again" in message for message in _damaged(events))
    assert _damaged(events) and events[-1] == {**events[-1], "event": "done", "cached": False}
    _same(tmp_path / "run", whole)
    assert run_plan(_values(world, tmp_path / "run"))[-1]["cached"]


@pytest.mark.parametrize(
    ("file", "harm"),
    [("model.safetensors", _halve), ("model.safetensors", _empty), ("config.json", _halve), ("tokenizer.json", _halve)],
)
def test_a_damaged_base_model_is_named_and_no_folder_is_created(
    world: Path, tmp_path: Path, file: str, harm: Any
) -> None:
    shutil.copytree(world / "base", tmp_path / "base")
    harm(tmp_path / "base" / file)
    values = {**_values(world, tmp_path / "run"), "base_model": str(tmp_path / "base")}
    with pytest.raises(PlanError, match=rf"base_model.*: .*base/{file} is damaged.*; copy it again"):
        run_plan(values)
    assert not (tmp_path / "run").exists()


class _Code:
    """Creates a folder when unpickled by a reader that runs code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "random-0.pt"])
def test_code_in_a_checkpoint_is_refused_even_with_the_correct_hash(
    world: Path, stopped: Path, tmp_path: Path, file: str
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    folder = tmp_path / "run" / "pretrain" / "checkpoints" / "step-000003"
    torch.save({"state": _Code(tmp_path / "ran")}, folder / file)
    mark = json.loads((folder / "complete.json").read_text())
    mark["files"] |= record_files(folder, [folder / file])
    (folder / "complete.json").write_text(json.dumps(mark))
    with pytest.raises(CheckpointError, match=rf"step-000003/{file}' contains more than tensors .*mkdir"):
        run_plan(_values(world, tmp_path / "run"))
    assert not (tmp_path / "ran").exists()


def test_no_inner_reader_may_load_code_even_if_it_asks_for_it(tmp_path: Path) -> None:
    torch.save(_Code(tmp_path / "ran"), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt"), weights_only(tmp_path / "state.pt"):
        torch.load(tmp_path / "state.pt", weights_only=False)  # as DeepSpeed does
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_cached_features_contain_only_numbers_and_damaged_ones_are_computed_again(world: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", tiny_mgm(), PROCESSOR, "square")
    image = world / "images" / "0.png"
    wanted: dict[Path | bytes, str] = {image: "p0"}
    assert (cache.fill(wanted), cache.fill(wanted)) == (1, 0)
    file = cache.path_of(image)
    before = file.read_bytes()
    for harm in (_empty, _halve, _flip):
        harm(file)
        with pytest.raises(FeatureError, match=rf"{file}: cannot be read as features .*; remove it and run again"):
            cache.load([image])
        assert cache.fill(wanted) == 1 and file.read_bytes() == before
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Code(tmp_path / "ran")], dtype=object), allow_pickle=True)
    file.write_bytes(buffer.getvalue() + xxhash.xxh3_128_digest(buffer.getvalue()))
    with pytest.raises(FeatureError, match="Object arrays cannot be loaded when allow_pickle=False"):
        cache.load([image])
    file.write_bytes(pickle.dumps(_Code(tmp_path / "ran")))
    with pytest.raises(FeatureError, match="cannot be read as features"):
        cache.load([image])
    assert not (tmp_path / "ran").exists()
