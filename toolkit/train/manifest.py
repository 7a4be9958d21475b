"""What identifies a training run, and the record of a finished stage.

In: plan and results. Out: the run's key (a digest of everything that the weights depend on) and ``manifest.json``.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from toolkit.files import file_sha256, json_sha256
from toolkit.mgm.speed import speed_for
from toolkit.train.plan import Plan, StagePlan, to_values
from toolkit.train.stage import StageResult

MANIFEST = "manifest.json"
_FORMAT = 2
# What changes where and how fast a plan runs, never its weights.
_NOT_IN_KEY = (
    "output_dir", "base_model", "cache_dir", "log_every", "report_to", "checkpoint_every", "checkpoint_limit",
    "memory_limit_gib",
)  # fmt: skip


def base_fingerprint(folder: Path) -> dict[str, str]:
    """Digest of each file of a checkpoint that decides what comes out of it."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model")])
    return {file.name: file_sha256(file) for file in files if file.name != MANIFEST}


def run_key(plan: Plan) -> str:
    """Digest of plan, data files and base model; where they lie on disk does not matter."""
    values = {k: v for k, v in to_values(plan).items() if k not in _NOT_IN_KEY}
    for value, stage in zip(values["stages"], plan.stages, strict=True):
        value |= {"data": file_sha256(stage.data), "images": None, "workers": None}
        if stage.deepspeed is not None:
            value["deepspeed"] = file_sha256(Path(stage.deepspeed))
    # With a cache the towers' features are rounded to float16, so the weights differ a little.
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    values["speed"] = dataclasses.asdict(speed_for(plan.speed, "cuda" if on_gpu else "cpu"))
    values["projector"] = None if plan.projector is None else file_sha256(plan.projector)
    values |= {"base": base_fingerprint(plan.base_model), "cached": plan.cache_dir is not None, "format": _FORMAT}
    return json_sha256(values)


def is_complete(folder: Path, key: str) -> bool:
    """Whether a stage's folder holds a finished run of this key."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return False
    found = json.loads(manifest.read_text("utf-8"))
    return bool(found["key"] == key and found["final_step"] == found["planned_steps"])


def stage_manifest(folder: Path, plan: Plan, stage: StagePlan, result: StageResult, key: str) -> dict[str, Any]:
    """The record of a finished stage, read after its other files are written."""
    return {
        "stage": stage.name,
        "key": key,
        "seed": plan.seed,
        "planned_steps": result.steps,
        "final_step": len(result.losses),
        "global_batch": stage.global_batch,
        "processes": result.processes,
        "device": result.device,
        "rows": result.rows,
        "data_sha256": file_sha256(stage.data),
        "samples_sha256": file_sha256(folder / "samples.jsonl"),
        "files": {file.name: file_sha256(file) for file in sorted(folder.glob("*.safetensors"))},
        "loss_curve": [round(loss, 6) for loss in result.losses],
        "resumed_from": result.resumed_from,
        "seconds": round(result.seconds, 3),
        "samples_per_s": round(result.steps * stage.global_batch / result.seconds, 3),
        "gpu_seconds": round(result.seconds * result.processes, 3) if result.device.startswith("cuda") else 0.0,
        "plan": to_values(plan),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            **({"deepspeed": version("deepspeed")} if stage.deepspeed else {}),
        },
    }  # fmt: skip
