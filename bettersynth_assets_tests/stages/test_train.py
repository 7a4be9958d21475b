"""The training stage with its real child process: runs are resumed, shared, and equal to the trainer's own."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.experiments.run_store import PHASES
from bettersynth_assets.scheduler.child_process import ChildError
from bettersynth_assets.stages import train
from bettersynth_assets.stages.training_plan import run_identity, training_plan
from bettersynth_assets_tests.helpers.budgeted import budgeted
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from bettersynth_assets_tests.helpers.llava_rows import write_rows
from toolkit.models.mgm.tiny import save_tiny
from toolkit.training.plan import parse_plan

MakeWork = Callable[..., Work]
OnEvent = Callable[[dict[str, Any]], None]


class Interrupted(Exception):
    """Simulates a run that is stopped from outside."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWork:
    """Builds a unit of work whose log stops the run at a given line."""
    save_tiny(tmp_path / "base")
    data = write_rows(tmp_path, pictures=4, text_only=2)
    for name in ("budgeted_set", "baseline_set"):
        (tmp_path / name).mkdir()
        shutil.copy(data, tmp_path / name / "llava.json")
    phase = {"global_batch": 4, "per_device_batch": 4, "learning_rate": 1e-3, "max_steps": 3}
    (tmp_path / "images" / "seed.jsonl").touch()
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(tmp_path / "p.yaml"))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))

    def build(
        folder: str,
        logged: list[str],
        stop_at: str = "never",
        launcher: Sequence[str] = (),
        seeds: Sequence[int] = (3,),
    ) -> Work:
        write_profile(
            tmp_path / "p.yaml",
            seed=str(tmp_path / "images" / "seed.jsonl"),
            models={"clip": "none", "watermark": "none", "captioner": "none", "base": str(tmp_path / "base")},
            training={"seeds": list(seeds), "stage_1": phase, "stage_2": phase, "finetune_json": str(data),
                      "finetune_images": str(tmp_path / "images"), "checkpoint_every": 1, "log_every": 1,
                      "launcher": list(launcher)},
        )  # fmt: skip

        def log(line: str) -> None:
            logged.append(line)
            if stop_at in line:
                raise Interrupted

        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = {
            name: [budgeted(tmp_path / name / "llava.json", tmp_path / "images")]
            for name in ("budgeted_set", "baseline_set")
        }
        return Work(run=ResolvedRun(load_settings()), shard="all", folder=tmp_path / folder, inputs=inputs, log=log)

    return build


def run_here(module: str, plans: Mapping[Path, Mapping[str, Any]], *, on_event: OnEvent, **_: object) -> None:
    """Train in this process; a child would first import torch and transformers for many seconds."""
    from toolkit.training.session import train as train_plan

    assert module == train.TRAINER
    for plan in plans.values():
        train_plan(parse_plan(json.loads(json.dumps(plan))), on_event)


def hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of what a run has trained, without records that contain durations or paths."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "run.json", "cost.json")
    }


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_and_another_set_with_equal_rows_trains_only_an_added_seed(
    work: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.training.session import train as train_plan

    logged: list[str] = []
    with pytest.raises(Interrupted):
        train.run(work("run", logged, stop_at="finetune: step 2/3"), source="budgeted_set")
    logged.clear()
    trained = train.run(work("run", logged), source="budgeted_set")
    assert any("seed 3 finetune: continues after step" in line for line in logged)
    assert not any("pretrain:" in line for line in logged)
    (row,) = trained.kept.to_pylist()
    assert (row["seed"], row["steps"], row["pretrain_exposures"], row["finetune_unique_rows"]) == (3, 6, 12, 6)
    assert set(trained.files) == {"seed-3/pretrain/projector.safetensors", "seed-3/finetune/model.safetensors"}
    phase = {f"seed-3/{name}/{file}" for name in PHASES for file in ("config.json", "samples.jsonl", "manifest.json")}
    assert phase | {"seed-3/finetune/tokenizer.json", "seed-3/cost.json"} < set(trained.other_files)

    logged.clear()
    monkeypatch.setattr(train, "run_child", run_here)
    baseline = train.run(work("baseline", logged, seeds=[4, 3]), source="baseline_set")
    assert not any("seed 3" in line for line in logged) and any("seed 4: finished in" in line for line in logged)
    assert baseline.kept.to_pylist()[1] == row
    assert hashes(tmp_path / "baseline" / "seed-3") == hashes(tmp_path / "run" / "seed-3")

    data = tmp_path / "budgeted_set" / "llava.json"
    plan = training_plan(work("alone", []).run, tmp_path / "alone" / "out", data, 3)
    train_plan(parse_plan({**plan, "checkpoint_every": None}), lambda event: None)
    assert hashes(tmp_path / "alone" / "out") == hashes(tmp_path / "run" / "seed-3")


def test_a_trainer_that_ends_with_0_and_without_its_last_step_has_failed(work: MakeWork) -> None:
    """Fault 30: a launcher may return 0 although its trainer died."""
    with pytest.raises(ChildError, match=r"exit code 0 before its last step: .*pretrain/manifest\.json is missing"):
        train.run(work("run", [], launcher=["true"]), source="budgeted_set")


def test_fewer_seeds_change_the_key_of_the_set_and_no_identity_of_a_run(work: MakeWork) -> None:
    one, two = work("run", [], seeds=[3]).run, work("run", [], seeds=[3, 4]).run
    assert train.depends(one, "all", {}) != train.depends(two, "all", {})
    assert run_identity(one, "arm", 3) == run_identity(two, "arm", 3)
    assert run_identity(one, "arm", 3) != run_identity(one, "arm", 4)
