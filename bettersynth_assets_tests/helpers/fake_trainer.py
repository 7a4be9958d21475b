"""A trainer that writes what the real one leaves of a run, within a millisecond."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bettersynth_assets.experiments.run_store import PHASES

COST = {
    "exposures": 12, "unique_rows": 6, "supervised_tokens": 124, "seconds": 1.5, "gpu_seconds": 0.0,
    "peak_rss_gib": 0.25, "gpu_peak_gib": None, "energy_joules": None,
}  # fmt: skip


def identity(arm: str, training_seed: int) -> dict[str, Any]:
    return {"arm": arm, "training_seed": training_seed, "base": "b"}


def write_phase(folder: Path, content: str, **changes: Any) -> None:
    """Write a finished phase."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    manifest = {
        "planned_steps": 3, "final_step": 3, "loss_curve": [2.0, 1.5, 1.25], "samples_per_s": 12.0, "device": "cpu",
        "processes": 1, "cost": COST, **changes,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Trainer:
    """Notes which seeds it trains.

    Args:
        before: called with the seed before each run is trained; may raise.
    """

    def __init__(self, before: Callable[[int], object] = lambda seed: None) -> None:
        self.before = before
        self.trained: list[int] = []

    def __call__(self, runs: Mapping[Path, Any], commit: Callable[[Path], object]) -> None:
        """Train runs as ``RunStore.ensure`` asks."""
        for folder, wanted in runs.items():
            (folder / "run.json").write_text("{}")
            self.before(wanted["training_seed"])
            self.trained.append(wanted["training_seed"])
            for phase in PHASES:
                if not (folder / phase).exists():
                    write_phase(folder / phase, f"{phase} of {wanted}")
            commit(folder)
