"""A plan's stage as Hugging Face's training arguments. What the contest fixes is here or a default of the plan."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import torch
from transformers import TrainingArguments

from toolkit.training.plan import Plan, StagePlan


def training_arguments(
    plan: Plan, stage: StagePlan, steps: int, *, logs: Path, scratch: Path, autocast: bool
) -> TrainingArguments:
    """Arguments of one stage in this process.

    Args:
        steps: optimizer steps of the stage.
        logs: where TensorBoard's files go.
        scratch: a folder that Trainer may write to.
        autocast: whether torch rounds float32 weights in bfloat16 without DeepSpeed; if not, the model does.

    Raises:
        PlanError: batch, accumulation and processes do not multiply to the global batch.
    """
    if stage.deepspeed is not None and "WORLD_SIZE" not in os.environ:
        os.environ.update(_single_process())
    # Read from the launcher's environment, because DeepSpeed's configuration is completed while the arguments are made.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation = stage.accumulation_for(processes)
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(logs)  # Trainer's writer reads it when the Trainer is made
    arguments = TrainingArguments(
        output_dir=str(scratch), seed=plan.seed, data_seed=plan.seed, use_cpu=not on_gpu,
        bf16=plan.dtype == "bfloat16" and (stage.deepspeed is not None or autocast),
        tf32=True if on_gpu and plan.dtype == "bfloat16" else None,
        max_steps=steps, per_device_train_batch_size=stage.per_device_batch, gradient_accumulation_steps=accumulation,
        learning_rate=stage.learning_rate, lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * stage.warmup_ratio),
        weight_decay=stage.weight_decay, adam_beta2=stage.adam_beta2,
        optim="adamw_torch_fused" if on_gpu and stage.deepspeed is None else "adamw_torch",
        max_grad_norm=stage.max_grad_norm or 0.0, deepspeed=stage.deepspeed,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ and not on_gpu else None,
        # Not persistent: a stage is one pass, so its loaders live as long as it, and end at once when it does.
        dataloader_num_workers=stage.workers, dataloader_persistent_workers=False,
        # Two steps ahead: the loaders work on while the training process takes a step's micro-batches at once.
        dataloader_prefetch_factor=max(2, -(-2 * accumulation // stage.workers)) if stage.workers else None,
        dataloader_pin_memory=on_gpu, accelerator_config={"non_blocking": on_gpu}, dataloader_drop_last=False,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True, logging_nan_inf_filter=False,
        logging_strategy="steps" if plan.report_to else "no", logging_steps=plan.log_every,
        report_to=list(plan.report_to), run_name=f"{plan.output_dir.name}-{stage.name}",
        average_tokens_across_devices=False, ddp_find_unused_parameters=False, log_on_each_node=False,
    )  # fmt: skip
    assert arguments.world_size == processes
    # One process works one device: with several GPUs and no launcher, Trainer would split each batch over all of them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _single_process() -> dict[str, str]:
    """What a launcher would say to the only process; without it DeepSpeed looks for MPI."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**alone, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
