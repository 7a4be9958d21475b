"""The record of a finished stage. In: plan and results. Out: ``manifest.json``, and whether its files are whole."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from toolkit.files import file_sha256
from toolkit.training.file_record import MarkerError, find_damage, read_marker, record_files
from toolkit.training.plan import Plan, StagePlan, to_values
from toolkit.training.stage import StageResult

MANIFEST = "manifest.json"


def is_complete(folder: Path, key: str, report: Callable[[str], None]) -> bool:
    """Whether a stage's folder holds a finished run of this key, all its files whole.

    Args:
        report: called with what is damaged, if the stage had been finished.
    """
    if not (folder / MANIFEST).exists():
        return False
    try:
        found = read_marker(folder / MANIFEST, ("key", "final_step", "planned_steps", "files"))
    except MarkerError as error:
        report(f"{error}; stage {folder.name} is trained again")
        return False
    if found["key"] != key or found["final_step"] != found["planned_steps"]:
        return False
    damage = find_damage(folder, found["files"])
    if damage is not None:
        report(f"{damage}; stage {folder.name} is trained again")
    return damage is None


def result_files(folder: Path) -> list[Path]:
    """The files of a finished stage except its manifest."""
    # A name with a dot in front is what a killed process had not finished writing.
    return [path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST and path.name[0] != "."]


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
        "files": record_files(folder, result_files(folder)),
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
