"""Plans that train a tiny model on a few rows within a second. In: a world of ``conftest``. Out: a plan's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.training.plan import parse_plan
from toolkit.training.session import train

Event = dict[str, Any]


def plan_values(world: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return the values of a plan with both stages, three steps each, and the given changes."""
    common = {"data": str(world / "data.json"), "images": str(world / "images"), "global_batch": 4, "max_steps": 3}
    pretrain = {**common, "name": "pretrain", "trained": "projector", "image_aspect": "square", "per_device_batch": 4}
    finetune = {**common, "name": "finetune", "trained": "projector+llm", "image_aspect": "pad", "per_device_batch": 2}
    stages = [
        {**pretrain, "learning_rate": 1e-2, "max_grad_norm": 1.0},
        {**finetune, "learning_rate": "1e-3", "group_by_modality_length": True},
    ]
    values = {"base_model": str(world / "base"), "output_dir": str(output), "seed": 7, "device": "cpu"}
    return {**values, "stages": stages, "log_every": 2, **changes}


def stage_of(values: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    """Return the plan with only one stage, changed."""
    stages = [{**stage, **changes} for stage in values["stages"] if stage["name"] == name]
    return {**values, "stages": stages}


class Stopped(Exception):
    """Simulates a run that is stopped from outside."""


def stop_after(values: dict[str, Any], step: int) -> None:
    """Train in this process until a step is done and its checkpoint written."""

    def emit(event: Event) -> None:
        if event["event"] == "step" and event["step"] == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(parse_plan({**values, "log_every": 1}), emit)


def run_plan(values: dict[str, Any]) -> list[Event]:
    """Train in this process; return the events."""
    events: list[Event] = []
    train(parse_plan(values), events.append)
    return events
