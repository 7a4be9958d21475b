"""Before the first step of a phase: trained parameters, projector, speed, dtypes, features of the towers.

In: the model, the plan and the rows of the phase. Out: the model, changed in place, and the cache of its features.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments, set_seed

from toolkit.data.collator import Collator
from toolkit.data.protocols import FeatureCache, Processor
from toolkit.data.rows import Rows
from toolkit.events import Emit
from toolkit.models.base import Architecture
from toolkit.training.plan import PhasePlan, TrainingPlan
from toolkit.training.projector_start import start_by_regression


def set_trained(architecture: Architecture, model: nn.Module, phase: PhasePlan) -> int:
    """Enable gradients for the parameters that the phase trains and disable all others; return the trained numel."""
    trained = 0
    for name, parameter in model.named_parameters():
        projector = name.startswith(architecture.projector)
        language = phase.trained == "projector+llm" and not name.startswith(architecture.towers)
        parameter.requires_grad_(projector or language)
        trained += parameter.numel() if parameter.requires_grad else 0
    return trained


def prepare_model(
    architecture: Architecture, model: PreTrainedModel, plan: TrainingPlan, phase: PhasePlan,
    arguments: TrainingArguments,
) -> None:  # fmt: skip
    """Prepare the model for a phase: memory limit, projector, trained parameters, speed, dtypes, random seed."""
    if arguments.device.type == "cuda" and plan.memory_limit_gib is not None:
        total = torch.cuda.get_device_properties(arguments.device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, plan.memory_limit_gib / total), arguments.device)
    if has_new_projector(plan, phase):
        architecture.start_projector(model, plan.seed)
    set_trained(architecture, model, phase)
    architecture.set_speed(model, plan.speed, arguments.device)
    if plan.dtype == "bfloat16" and phase.deepspeed is None:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    set_seed(plan.seed)


def has_new_projector(plan: TrainingPlan, phase: PhasePlan) -> bool:
    """Return whether the phase starts with a new projector and not with the model's or the plan's."""
    if phase.fresh_projector is not None:
        return phase.fresh_projector
    return phase.name == "pretrain" and plan.projector is None


def fill_cache(
    architecture: Architecture, model: PreTrainedModel, processor: Processor, plan: TrainingPlan, phase: PhasePlan,
    rows: Rows, arguments: TrainingArguments, emit: Emit,
) -> FeatureCache | None:  # fmt: skip
    """Compute the features of the phase's images that are missing in the cache; None without a cache."""
    if plan.cache_dir is None or not architecture.caches_features:
        return None
    cast(nn.Module, model).to(arguments.device).eval()
    cache = architecture.feature_cache(plan.cache_dir, model, processor, phase.image_aspect)
    if cache is None:
        return None
    numbered = ((rows.image(at), rows.ids[at]) for at in range(len(rows)))
    images: dict[Path | bytes, str] = {image: id_ for image, id_ in numbered if image is not None}
    began = time.monotonic()
    computed = cache.fill(images, rank=arguments.process_index, world=arguments.world_size)
    arguments.distributed_state.wait_for_everyone()
    seconds = round(time.monotonic() - began, 2)
    emit({"event": "features", "stage": phase.name, "computed": computed, "seconds": seconds})
    return cache


def fit_projector(
    architecture: Architecture, model: PreTrainedModel, plan: TrainingPlan, phase: PhasePlan, rows: Rows,
    collator: Collator, arguments: TrainingArguments, emit: Emit,
) -> None:  # fmt: skip
    """Fit a new projector to the rows of the phase, if the plan says so.

    Raises:
        PlanError: the architecture does not support it.
    """
    if plan.projector_start != "regression" or not has_new_projector(plan, phase):
        return
    began = time.monotonic()
    used = start_by_regression(architecture, model, rows, collator, arguments.device)
    emit({"event": "projector", "stage": phase.name, "rows": used, "seconds": round(time.monotonic() - began, 2)})
