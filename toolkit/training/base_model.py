"""Loading of a training's base model. In: a plan. Out: model and processor, or an error that names a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from toolkit.data.protocols import Processor
from toolkit.model_files import first_damaged
from toolkit.models.base import Architecture
from toolkit.training.plan import PlanError, TrainingPlan

PROJECTOR_FILE = "projector.safetensors"
T = TypeVar("T")


def check_base(folder: Path) -> None:
    """Check the base model's files for truncated or invalid content before weights are loaded.

    Raises:
        PlanError: a file is damaged; the message names it.
        EnvironmentFault: the file system does not let this user read a file.
    """
    if damage := first_damaged(folder):
        path, error = damage
        kind = ": not valid JSON" if path.suffix == ".json" else ""
        raise PlanError(f"base_model: {path} is damaged{kind} ({error}); copy it again") from error


def load_processor(architecture: Architecture, plan: TrainingPlan) -> Processor:
    """Load the base model's tokenizer and image preprocessing."""
    return _load(plan, lambda: architecture.load_processor(plan.base_model))


def load_base(architecture: Architecture, plan: TrainingPlan) -> PreTrainedModel:
    """Load the base model in float32, with the plan's projector; the phase converts weights to bfloat16.

    Raises:
        PlanError: the base model is damaged or is not a model of its type.
    """
    model = _load(plan, lambda: architecture.load_model(plan.base_model, torch.float32))
    if plan.projector is not None:
        architecture.load_projector(model, plan.projector)
    return model


def load_trained(architecture: Architecture, model: nn.Module, folder: Path) -> None:
    """Load the weights of a complete phase into the model."""
    if (folder / PROJECTOR_FILE).is_file():
        architecture.load_projector(model, folder / PROJECTOR_FILE)
    else:
        # Load through the library, because parameter names on disk may differ from the model's.
        model.load_state_dict(architecture.load_model(folder, torch.float32).state_dict())


def _load(plan: TrainingPlan, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise PlanError(f"base_model: {str(plan.base_model)!r} cannot be loaded ({message}); copy it again") from error
