"""One training stage. In: a model, a processor and a :class:`StagePlan`. Out: the model, trained, and what happened.

The towers stay frozen in both stages; ``pretrain`` trains projector and mining projections, ``finetune`` the language
model as well.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from toolkit.data.collator import Collator
from toolkit.data.feature_cache import FeatureCache
from toolkit.data.llava import ExposureDataset, Sample, read_llava
from toolkit.data.order import exposure_order, grouped_order, planned_steps
from toolkit.events import Emit
from toolkit.mgm.modeling_mgm import TOWERS, TRAINED_IN_STAGE_1, MGMGemmaForCausalLM
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.train.plan import Plan, PlanError, StagePlan
from toolkit.train.trainer import MGMTrainer, Progress


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did: losses of every step, sample ids of every step, seconds of training, processes."""

    steps: int
    losses: list[float]
    samples: list[list[str]]
    rows: int
    seconds: float
    processes: int
    device: str


def set_trained(model: MGMGemmaForCausalLM, stage: StagePlan) -> int:
    """Switch gradients on for what the stage trains and off for the rest; returns the number of trained values."""
    trained = 0
    for name, parameter in model.named_parameters():
        projector = name.startswith(TRAINED_IN_STAGE_1)
        language = stage.trained == "projector+llm" and not name.startswith(TOWERS)
        parameter.requires_grad_(projector or language)
        trained += parameter.numel() if parameter.requires_grad else 0
    return trained


def start_projector(model: MGMGemmaForCausalLM, seed: int) -> None:
    """Give projector and mining projections fresh weights that depend on the seed alone."""
    set_seed(seed)
    for part in model.model.trained_in_stage_1():
        for module in part.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
                module.reset_parameters()


def order_of(samples: list[Sample], stage: StagePlan, steps: int, seed: int) -> list[int]:
    """Index of the sample of each exposure."""
    if not stage.group_by_modality_length:
        return exposure_order(len(samples), steps, stage.global_batch, seed)
    words, pictured = [s.words for s in samples], [s.image is not None for s in samples]
    return grouped_order(words, pictured, steps, stage.global_batch, seed)


def train_stage(
    model: MGMGemmaForCausalLM, processor: MGMProcessor, plan: Plan, stage: StagePlan, emit: Emit
) -> StageResult:
    """Train one stage in place.

    Raises:
        PlanError: the batches do not multiply to the global batch, or a GPU is asked for where there is none.
        DataError, LabelError, ImageError: data that cannot be used; the message names the row.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise PlanError("device: 'cuda' asked for, but torch sees no GPU here; use 'cpu' or 'auto'")
    samples = read_llava(stage.data, stage.images)
    with tempfile.TemporaryDirectory() as scratch:
        return _train(model, processor, plan, stage, samples, emit, Path(scratch))


def _train(
    model: MGMGemmaForCausalLM, processor: MGMProcessor, plan: Plan, stage: StagePlan, samples: list[Sample],
    emit: Emit, scratch: Path,
) -> StageResult:  # fmt: skip
    steps = planned_steps(len(samples), stage.global_batch, stage.max_steps)
    order = order_of(samples, stage, steps, plan.seed)
    arguments = _arguments(plan, stage, steps, scratch)
    if stage.name == "pretrain" if stage.fresh_projector is None else stage.fresh_projector:
        start_projector(model, plan.seed)
    values = set_trained(model, stage)
    set_seed(plan.seed)
    cache = None
    if plan.cache_dir is not None:
        cast(torch.nn.Module, model).to(arguments.device).eval()
        cache = FeatureCache(plan.cache_dir, model, processor, stage.image_aspect)
        pictures: dict[Path | bytes, str] = {s.image: s.id for s in samples if s.image is not None}
        began = time.monotonic()
        made = cache.fill(pictures, rank=arguments.process_index, world=arguments.world_size)
        arguments.distributed_state.wait_for_everyone()
        seconds = round(time.monotonic() - began, 2)
        emit({"event": "features", "stage": stage.name, "computed": made, "seconds": seconds})
    progress = Progress(stage=stage.name, global_batch=stage.global_batch, log_every=plan.log_every, emit=emit)
    trainer = MGMTrainer(
        model=model, args=arguments, train_dataset=ExposureDataset(samples, processor), order=order,
        data_collator=Collator(processor=processor, aspect=stage.image_aspect, cache=cache),
        token_average=plan.loss_average == "token", callbacks=[progress],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    progress.trainer = trainer
    emit({"event": "start", "stage": stage.name, "steps": steps, "rows": len(samples), "trained_values": values})
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    if trainer.state.global_step != steps or len(trainer.losses) != steps:
        raise RuntimeError(f"stage {stage.name} ended at step {trainer.state.global_step} of {steps}")
    batch = stage.global_batch
    ids = [[samples[i].id for i in order[at : at + batch]] for at in range(0, steps * batch, batch)]
    return StageResult(
        steps=steps, losses=trainer.losses, samples=ids, rows=len(samples), seconds=seconds,
        processes=arguments.world_size, device=str(arguments.device),
    )  # fmt: skip


def _arguments(plan: Plan, stage: StagePlan, steps: int, scratch: Path) -> TrainingArguments:
    # Read from the launcher's environment, because DeepSpeed's configuration is completed while the arguments are made.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(scratch), seed=plan.seed, data_seed=plan.seed, use_cpu=plan.device == "cpu",
        bf16=plan.dtype == "bfloat16", tf32=True if on_gpu and plan.dtype == "bfloat16" else None,
        max_steps=steps, per_device_train_batch_size=stage.per_device_batch,
        gradient_accumulation_steps=stage.accumulation_for(processes),
        learning_rate=stage.learning_rate, lr_scheduler_type="cosine", warmup_ratio=stage.warmup_ratio,
        weight_decay=stage.weight_decay, adam_beta2=stage.adam_beta2, optim="adamw_torch",
        max_grad_norm=stage.max_grad_norm or 0.0, deepspeed=stage.deepspeed, dataloader_num_workers=stage.workers,
        dataloader_drop_last=False, remove_unused_columns=False, logging_strategy="no", save_strategy="no",
        report_to=[], disable_tqdm=True, logging_nan_inf_filter=False, average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    assert arguments.world_size == processes
    # One process works one device: with several GPUs and no launcher, Trainer would split each batch over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
