"""The training stage with its real child process: a step that was interrupted goes on inside the stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.stages import train
from bettersynth_assets.stages.stage import Work
from bettersynth_assets_tests.dagster.fake_graph import write_profile
from bettersynth_assets_tests.toolkit.test_train_data import write_rows
from toolkit.mgm.tiny import save_tiny


class Interrupted(Exception):
    """Stands for a run that is stopped from outside."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a piece of work whose log stops the run at a given line."""
    save_tiny(tmp_path / "base")
    data = write_rows(tmp_path, pictures=4, text_only=2)
    shutil.copytree(tmp_path / "images", tmp_path / "budgeted" / "images")
    shutil.copy(data, tmp_path / "budgeted" / "llava.json")
    stage = {"global_batch": 4, "per_device_batch": 4, "learning_rate": 1e-3, "max_steps": 3}
    write_profile(
        tmp_path / "p.yaml",
        seed=str(tmp_path / "images" / "seed.jsonl"),
        models={"clip": "none", "watermark": "none", "captioner": "none", "mgm": str(tmp_path / "base")},
        training={"seeds": [3], "stage_1": stage, "stage_2": stage, "finetune_json": str(data),
                  "finetune_images": str(tmp_path / "images"), "checkpoint_every": 1, "log_every": 1},
    )  # fmt: skip
    (tmp_path / "images" / "seed.jsonl").touch()
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(tmp_path / "p.yaml"))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))

    def build(folder: str, told: list[str], stop_at: str = "never") -> Work:
        def log(line: str) -> None:
            told.append(line)
            if stop_at in line:
                raise Interrupted

        (tmp_path / folder).mkdir(exist_ok=True)
        inputs = {"budgeted_set": [cast(Any, SimpleNamespace(file=lambda name: tmp_path / "budgeted" / name))]}
        return Work(settings=load_settings(), shard="all", folder=tmp_path / folder, inputs=inputs, log=log)

    return build


def test_an_interrupted_step_goes_on_inside_the_stage(work: Any) -> None:
    told: list[str] = []
    with pytest.raises(Interrupted):
        train.run(work("run", told, stop_at="finetune: step 2/3"), source="budgeted_set")
    told.clear()
    made = train.run(work("run", told), source="budgeted_set")
    assert any("finetune: goes on after step" in line for line in told)
    assert not any("pretrain:" in line for line in told)
    assert [row["steps"] for row in made.kept.to_pylist()] == [6]
    assert set(made.files) == {"seed-3/pretrain/projector.safetensors", "seed-3/finetune/model.safetensors"}
    phase = {
        f"seed-3/{name}/{file}" for name in train.STAGES for file in ("config.json", "samples.jsonl", "manifest.json")
    }
    assert phase | {"seed-3/finetune/tokenizer.json"} < set(made.other_files)
