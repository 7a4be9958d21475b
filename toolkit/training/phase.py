"""One training phase. In: a model, a processor and a :class:`PhasePlan`. Out: the trained model and a ``PhaseResult``.

The towers are frozen in both phases. ``pretrain`` trains the projector, ``finetune`` also the language model. With
``dtype: bfloat16``, frozen weights are stored in bfloat16 and trained weights in float32; the forward pass casts the
trained weights to bfloat16. Under DeepSpeed, the engine manages the precisions with the same effect.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from toolkit.data.collator import Collator
from toolkit.data.exposures import Exposures
from toolkit.data.order import exposure_order, grouped_order, planned_steps
from toolkit.data.protocols import Processor
from toolkit.data.rows import Rows
from toolkit.events import Emit, tagged
from toolkit.file_errors import EnvironmentFault
from toolkit.models.base import Architecture
from toolkit.training.arguments import training_arguments
from toolkit.training.checkpoint import Checkpoint, Checkpoints, newest
from toolkit.training.cost import Meter, exposure_counts
from toolkit.training.plan import PhasePlan, PlanError, TrainingPlan
from toolkit.training.preparation import fill_cache, fit_projector, prepare_model
from toolkit.training.progress import Progress
from toolkit.training.trainer import ExposureTrainer


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """Result of a phase."""

    steps: int
    losses: list[float]
    """Loss of each step."""
    samples: list[list[str]]
    """Row ids of each step."""
    rows: int
    cost: dict[str, Any]
    """Exposures, tokens, seconds, memory and energy; see :mod:`toolkit.training.cost`."""
    processes: int
    device: str
    resumed_from: list[int]
    """Steps of the checkpoints from which the run was resumed."""


def order_of(rows: Rows, phase: PhasePlan, steps: int, random_seed: int) -> list[int]:
    """Return the row index of each exposure."""
    if not phase.group_by_modality_length:
        return exposure_order(len(rows), steps, phase.global_batch, random_seed)
    return grouped_order(rows.words.tolist(), rows.has_image, steps, phase.global_batch, random_seed)


def check_device(plan: TrainingPlan) -> None:
    """Raise ``PlanError`` if the plan requires a GPU and none is available."""
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise PlanError("device: 'cuda' requested, but torch finds no GPU on this machine; use 'cpu' or 'auto'")


def train_phase(
    architecture: Architecture, model: PreTrainedModel, processor: Processor, plan: TrainingPlan, phase: PhasePlan,
    rows: Rows, emit: Emit, key: str,
) -> PhaseResult:  # fmt: skip
    """Train one phase in place; resume from its newest intact checkpoint, if any.

    Raises:
        PlanError: the batches do not match the global batch.
        ImageError, CheckpointError: an image or a checkpoint cannot be used; the message names it.
        EnvironmentFault: the environment prevents this process from reading a file.
        LossError: the loss became NaN or infinite, or diverged.
    """
    folder = plan.output_dir / phase.name
    steps = planned_steps(len(rows), phase.global_batch, phase.max_steps)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = training_arguments(
            plan, phase, steps, logs=folder / "logs", scratch=Path(scratch), autocast=architecture.autocast
        )
        start = _newest(folder, key, arguments, tagged(emit, stage=phase.name))
        exposures = Exposures(
            rows, order_of(rows, phase, steps, plan.seed), global_batch=phase.global_batch,
            per_device_batch=phase.per_device_batch, processes=arguments.world_size,
            group=phase.group if plan.loss_average == "micro_batch" else None,
        )  # fmt: skip
        prepare_model(architecture, model, plan, phase, arguments)
        cache = fill_cache(architecture, model, processor, plan, phase, rows, arguments, emit)
        meter = Meter(arguments.device, arguments.world_size, start.cost if start else None)
        checkpoints = Checkpoints(
            folder, key, every=plan.checkpoint_every, limit=plan.checkpoint_limit, start=start, meter=meter
        )
        collator = Collator(
            processor=processor, aspect=phase.image_aspect, cache=cache, pad_multiple=phase.pad_multiple
        )
        if start is None:
            fit_projector(architecture, model, plan, phase, rows, collator, arguments, emit)
        trainer = _trainer(architecture, model, plan, phase, arguments, exposures, collator, checkpoints, emit)
        values = sum(p.numel() for p in model.parameters() if p.requires_grad)
        emit({"event": "start", "stage": phase.name, "steps": steps, "rows": len(rows), "trained_values": values})
        if start is not None:
            emit({"event": "resume", "stage": phase.name, "step": start.step})
        try:
            trainer.train()
        except (ValueError, EnvironmentFault) as error:
            if "DataLoader worker" not in str(error):
                raise
            raise type(error)(_message_in_loader(error)) from error
        trainer.check_weights()
        cost = exposure_counts(exposures) | meter.read()
    if trainer.state.global_step != steps or len(trainer.losses) != steps:
        raise RuntimeError(f"phase {phase.name} ended at step {trainer.state.global_step} of {steps}")
    return PhaseResult(
        steps=steps, losses=trainer.losses, samples=exposures.step_ids(), rows=len(rows), cost=cost,
        processes=arguments.world_size, device=str(arguments.device), resumed_from=checkpoints.resumed_from,
    )  # fmt: skip


def _newest(folder: Path, key: str, arguments: TrainingArguments, emit: Emit) -> Checkpoint | None:
    """Return the newest intact checkpoint, the same in all processes; report and remove damaged ones."""
    damaged: list[Path] = []

    def report(checkpoint: Path, message: str) -> None:
        damaged.append(checkpoint)
        emit({"event": "damaged", "message": f"{message}; checkpoint {checkpoint.name} is not used"})

    found = [newest(folder, key, report) if arguments.process_index == 0 else None]
    if arguments.world_size > 1:
        broadcast_object_list(found)
    for path in damaged:
        shutil.rmtree(path)
    if damaged and found[0] is None:
        emit({"event": "damaged", "message": "no intact checkpoint is left; the phase restarts from its first step"})
    return found[0]


def _trainer(
    architecture: Architecture, model: PreTrainedModel, plan: TrainingPlan, phase: PhasePlan,
    arguments: TrainingArguments, exposures: Exposures, collator: Collator, checkpoints: Checkpoints, emit: Emit,
) -> ExposureTrainer:  # fmt: skip
    progress = Progress(phase=phase.name, global_batch=phase.global_batch, log_every=plan.log_every, emit=emit)
    trainer = ExposureTrainer(
        model=model, args=arguments, exposures=exposures, architecture=architecture, processor=collator.processor,
        data_collator=collator,
        first_step=checkpoints.start.step if checkpoints.start else 0, callbacks=[checkpoints, progress],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    progress.trainer = checkpoints.trainer = trainer
    return trainer


def _message_in_loader(error: Exception) -> str:
    """Return an error's original message in the data loader process, without that process's traceback."""
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    return str(error).rsplit(name, 1)[-1].strip()
