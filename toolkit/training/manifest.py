"""Manifest of a finished phase. In: plan and results. Out: ``manifest.json``, and whether its files are intact."""

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
from toolkit.training.phase import PhaseResult
from toolkit.training.plan import PhasePlan, TrainingPlan, to_values

MANIFEST = "manifest.json"


def is_complete(folder: Path, key: str, report: Callable[[str], None]) -> bool:
    """Return whether a phase's folder contains a finished run of this key with all files intact.

    Args:
        folder: the phase's folder.
        key: of the run.
        report: called with a description of the damage if the phase was finished and is damaged.
    """
    if not (folder / MANIFEST).exists():
        return False
    try:
        manifest = read_marker(folder / MANIFEST, ("key", "final_step", "planned_steps", "files"))
    except MarkerError as error:
        report(f"{error}; phase {folder.name} is trained again")
        return False
    if manifest["key"] != key or manifest["final_step"] != manifest["planned_steps"]:
        return False
    damage = find_damage(folder, manifest["files"])
    if damage is not None:
        report(f"{damage}; phase {folder.name} is trained again")
    return damage is None


def result_files(folder: Path) -> list[Path]:
    """Return the files of a finished phase except its manifest."""
    # Names that start with a dot are incomplete files of a killed process.
    return [path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST and path.name[0] != "."]


def phase_manifest(folder: Path, plan: TrainingPlan, phase: PhasePlan, result: PhaseResult, key: str) -> dict[str, Any]:
    """Build the manifest of a finished phase; call it after all other files are written."""
    return {
        "stage": phase.name,
        "key": key,
        "seed": plan.seed,
        "planned_steps": result.steps,
        "final_step": len(result.losses),
        "global_batch": phase.global_batch,
        "processes": result.processes,
        "device": result.device,
        "rows": result.rows,
        "data_sha256": file_sha256(phase.data),
        "samples_sha256": file_sha256(folder / "samples.jsonl"),
        "files": record_files(folder, result_files(folder)),
        "loss_curve": [round(loss, 6) for loss in result.losses],
        "resumed_from": result.resumed_from,
        "cost": {name: round(value, 3) if isinstance(value, float) else value for name, value in result.cost.items()},
        "samples_per_s": round(result.steps * phase.global_batch / result.cost["seconds"], 3),
        "plan": to_values(plan),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            **({"deepspeed": version("deepspeed")} if phase.deepspeed else {}),
        },
    }  # fmt: skip
