"""Conversion of a plan's phase to Hugging Face ``TrainingArguments``.

Values that the contest fixes are set here or are defaults of the plan.
"""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import torch
from transformers import TrainingArguments

from toolkit.training.plan import PhasePlan, TrainingPlan


def training_arguments(
    plan: TrainingPlan, phase: PhasePlan, steps: int, *, logs: Path, scratch: Path, autocast: bool
) -> TrainingArguments:
    """Return the arguments of one phase for this process.

    Args:
        plan: the plan.
        phase: the phase of the plan.
        steps: number of optimizer steps of the phase.
        logs: folder for TensorBoard files.
        scratch: folder to which Trainer may write.
        autocast: whether torch autocast casts float32 weights in a bfloat16 training without DeepSpeed; if False, the
            model casts them.

    Raises:
        PlanError: the product of batch, accumulation and processes is not the global batch.
    """
    if phase.deepspeed is not None and "WORLD_SIZE" not in os.environ:
        os.environ.update(_single_process())
    # Read from the launcher's environment: creating the arguments already completes DeepSpeed's configuration.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation = phase.accumulation_for(processes)
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(logs)  # read when the Trainer is created
    arguments = TrainingArguments(
        output_dir=str(scratch), seed=plan.seed, data_seed=plan.seed, use_cpu=not on_gpu,
        bf16=plan.dtype == "bfloat16" and (phase.deepspeed is not None or autocast),
        tf32=True if on_gpu and plan.dtype == "bfloat16" else None,
        max_steps=steps, per_device_train_batch_size=phase.per_device_batch, gradient_accumulation_steps=accumulation,
        learning_rate=phase.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * phase.warmup_ratio),
        weight_decay=phase.weight_decay, adam_beta2=phase.adam_beta2,
        optim="adamw_torch_fused" if on_gpu and phase.deepspeed is None else "adamw_torch",
        max_grad_norm=phase.max_grad_norm or 0.0, deepspeed=phase.deepspeed,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ and not on_gpu else None,
        # A phase is one pass over the data, so persistent workers gain nothing and would outlive it.
        dataloader_num_workers=phase.workers, dataloader_persistent_workers=False,
        # Prefetch two steps, because the training process takes all micro-batches of a step at once.
        dataloader_prefetch_factor=max(2, -(-2 * accumulation // phase.workers)) if phase.workers else None,
        dataloader_pin_memory=on_gpu, accelerator_config={"non_blocking": on_gpu}, dataloader_drop_last=False,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True, logging_nan_inf_filter=False,
        logging_strategy="steps" if plan.report_to else "no", logging_steps=plan.log_every,
        report_to=list(plan.report_to), run_name=f"{plan.output_dir.name}-{phase.name}",
        average_tokens_across_devices=False, ddp_find_unused_parameters=False, log_on_each_node=False,
    )  # fmt: skip
    assert arguments.world_size == processes
    # Use one device per process: without a launcher, Trainer would split each batch over all visible GPUs.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _single_process() -> dict[str, str]:
    """Return a launcher's environment variables for a single process; without them DeepSpeed tries to use MPI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
