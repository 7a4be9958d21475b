"""The model that a training starts from. In: a plan. Out: model and processor; an error names a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from toolkit.model_files import first_damaged
from toolkit.models.base import Architecture, Processor
from toolkit.training.plan import Plan, PlanError

PROJECTOR_FILE = "projector.safetensors"
T = TypeVar("T")


def check_base(folder: Path) -> None:
    """Refuse a base model with a file that is cut off or no JSON, before anything heavy is loaded.

    Raises:
        PlanError: names the file.
        EnvironmentFault: the file system does not let this user read it.
    """
    if found := first_damaged(folder):
        path, error = found
        kind = ": no JSON" if path.suffix == ".json" else ""
        raise PlanError(f"base_model: {path} is damaged{kind} ({error}); copy it again") from error


def load_processor(architecture: Architecture, plan: Plan) -> Processor:
    """The base model's tokenizer and image preprocessing."""
    return _load(plan, lambda: architecture.load_processor(plan.base_model))


def load_base(architecture: Architecture, plan: Plan) -> Any:
    """The base model in float32, with the plan's projector; what is held in bfloat16 is the stage's business.

    Raises:
        PlanError: the base model is damaged or no model of its type.
    """
    model = _load(plan, lambda: architecture.load_model(plan.base_model, torch.float32))
    if plan.projector is not None:
        architecture.load_projector(model, plan.projector)
    return model


def load_trained(architecture: Architecture, model: nn.Module, folder: Path) -> None:
    """Put a complete stage's weights into the model."""
    if (folder / PROJECTOR_FILE).is_file():
        architecture.load_projector(model, folder / PROJECTOR_FILE)
    else:
        # Through the library, because names on disk may be others than the model's own.
        model.load_state_dict(architecture.load_model(folder, torch.float32).state_dict())


def _load(plan: Plan, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        words = " ".join(str(error).split())
        raise PlanError(f"base_model: {str(plan.base_model)!r} cannot be loaded ({words}); copy it again") from error
