"""The training stage with its real child process resumes after an interruption; only the last step completes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.scheduler.child_process import ChildError
from bettersynth_assets.stages import train
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from bettersynth_assets_tests.helpers.llava_rows import write_rows
from toolkit.models.mgm.tiny import save_tiny


class Interrupted(Exception):
    """Simulates a run that is stopped from outside."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds a unit of work whose log stops the run at a given line."""
    save_tiny(tmp_path / "base")
    data = write_rows(tmp_path, pictures=4, text_only=2)
    shutil.copytree(tmp_path / "images", tmp_path / "budgeted" / "images")
    shutil.copy(data, tmp_path / "budgeted" / "llava.json")
    stage = {"global_batch": 4, "per_device_batch": 4, "learning_rate": 1e-3, "max_steps": 3}
    (tmp_path / "images" / "seed.jsonl").touch()
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(tmp_path / "p.yaml"))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))

    def build(folder: str, logged: list[str], stop_at: str = "never", launcher: Sequence[str] = ()) -> Work:
        write_profile(
            tmp_path / "p.yaml",
            seed=str(tmp_path / "images" / "seed.jsonl"),
            models={"clip": "none", "watermark": "none", "captioner": "none", "base": str(tmp_path / "base")},
            training={"seeds": [3], "stage_1": stage, "stage_2": stage, "finetune_json": str(data),
                      "finetune_images": str(tmp_path / "images"), "checkpoint_every": 1, "log_every": 1,
                      "launcher": list(launcher)},
        )  # fmt: skip

        def log(line: str) -> None:
            logged.append(line)
            if stop_at in line:
                raise Interrupted

        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = {"budgeted_set": [cast(Any, SimpleNamespace(file=lambda name: tmp_path / "budgeted" / name))]}
        return Work(run=ResolvedRun(load_settings()), shard="all", folder=tmp_path / folder, inputs=inputs, log=log)

    return build


@pytest.mark.slow
def test_an_interrupted_stage_resumes_at_its_last_step(work: Any) -> None:
    logged: list[str] = []
    with pytest.raises(Interrupted):
        train.run(work("run", logged, stop_at="finetune: step 2/3"), source="budgeted_set")
    logged.clear()
    made = train.run(work("run", logged), source="budgeted_set")
    assert any("finetune: continues after step" in line for line in logged)
    assert not any("pretrain:" in line for line in logged)
    assert [row["steps"] for row in made.kept.to_pylist()] == [6]
    assert set(made.files) == {"seed-3/pretrain/projector.safetensors", "seed-3/finetune/model.safetensors"}
    phase = {
        f"seed-3/{name}/{file}" for name in train.STAGES for file in ("config.json", "samples.jsonl", "manifest.json")
    }
    assert phase | {"seed-3/finetune/tokenizer.json"} < set(made.other_files)


def test_a_trainer_that_ends_with_0_and_without_its_last_step_has_failed(work: Any, tmp_path: Path) -> None:
    """Fault 30: a launcher may return 0 although its trainer died."""

    def run() -> None:
        train.run(work("run", [], launcher=["true"]), source="budgeted_set")

    folder = tmp_path / "run" / "seed-3"
    with pytest.raises(ChildError, match=r"exit code 0 before its last step: .*pretrain/manifest\.json is missing"):
        run()
    for stage in train.STAGES:
        (folder / stage).mkdir(parents=True)
    marks = [folder / stage / "manifest.json" for stage in train.STAGES]
    marks[0].write_text("")
    with pytest.raises(ChildError, match=r"exit code 0 before its last step: .*pretrain/manifest\.json is empty"):
        run()
    whole = {
        "planned_steps": 3,
        "final_step": 3,
        "loss_curve": [1.0] * 3,
        "cost": {"seconds": 1.0},
        "samples_per_s": 12.0,
    }
    marks[0].write_text(json.dumps(whole))
    marks[1].write_text(json.dumps({**whole, "final_step": 2}))
    with pytest.raises(ChildError, match=r"exit code 0 but after step 2 of 3: .*finetune/manifest\.json"):
        run()
    marks[1].write_text(json.dumps(whole))
    run()
