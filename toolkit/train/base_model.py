"""The model that a training starts from. In: a plan. Out: model and processor; an error names a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from toolkit.convert_weights import load_projector
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.model_files import first_damaged
from toolkit.train.plan import Plan, PlanError

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


def load_processor(plan: Plan) -> MGMProcessor:
    """The base model's tokenizer and image preprocessing."""
    return _load(plan, lambda: MGMProcessor.from_pretrained(plan.base_model))


def load_base(plan: Plan) -> MGMGemmaForCausalLM:
    """The base model in float32, with the plan's projector; what is held in bfloat16 is the stage's business.

    Raises:
        PlanError: the base model is damaged or no MGM model.
    """
    model: MGMGemmaForCausalLM = _load(
        plan, lambda: MGMGemmaForCausalLM.from_pretrained(plan.base_model, dtype=torch.float32)
    )
    if plan.projector is not None:
        load_projector(model, plan.projector)
    return model


def _load(plan: Plan, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        words = " ".join(str(error).split())
        raise PlanError(f"base_model: {str(plan.base_model)!r} cannot be loaded ({words}); copy it again") from error
