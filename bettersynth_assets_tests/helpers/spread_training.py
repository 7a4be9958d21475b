"""One training distributed over processes in several ways: plans, runs by ``killed_training``, results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bettersynth_assets_tests.helpers.paths import ROOT

STAGES = {"pretrain": "projector.safetensors", "finetune": "model.safetensors"}
ZERO2 = str(ROOT / "toolkit" / "training" / "deepspeed" / "zero2.json")


def write_plan(folder: Path, name: str, *, deepspeed: bool = False, per_device_batch: int = 2, **changes: Any) -> Path:
    shared = {
        "data": str(folder / "data.json"), "images": str(folder / "images"), "global_batch": 8, "max_steps": 4,
        "per_device_batch": per_device_batch, "loss_group": 2, "deepspeed": ZERO2 if deepspeed else None,
    }  # fmt: skip
    pretrain = {"name": "pretrain", "trained": "projector", "image_aspect": "square", "learning_rate": 1e-2}
    finetune = {"name": "finetune", "trained": "projector+llm", "image_aspect": "pad", "learning_rate": 1e-3}
    stages = [{**shared, **pretrain, "max_grad_norm": 1.0}, {**shared, **finetune, "group_by_modality_length": True}]
    values = {"base_model": str(folder / "base"), "output_dir": str(folder / name), "seed": 7, "device": "cpu"}
    (folder / f"{name}.json").write_text(json.dumps({**values, "stages": stages, "checkpoint_every": 1, **changes}))
    return folder / f"{name}.json"


def run_all(folder: Path, name: str, runs: list[tuple[str, int, str]]) -> None:
    listed = [{"plan": str(folder / f"{plan}.json"), "processes": n, "point": point} for plan, n, point in runs]
    (folder / f"runs-{name}.json").write_text(json.dumps(listed))
    command = [
        sys.executable,
        "-m",
        "bettersynth_assets_tests.helpers.killed_training",
        str(folder / f"runs-{name}.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def results(output: Path) -> dict[str, tuple[list[float], dict[str, torch.Tensor]]]:
    manifests = {stage: json.loads((output / stage / "manifest.json").read_text()) for stage in STAGES}
    return {s: (manifests[s]["loss_curve"], load_file(output / s / file)) for s, file in STAGES.items()}


def assert_equal_to_rounding(found: Path, expected: Path) -> None:
    for stage, (curve, weights) in results(found).items():
        expected_curve, expected_weights = results(expected)[stage]
        assert curve == pytest.approx(expected_curve, abs=2e-6)
        for name, value in expected_weights.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=2e-6)
