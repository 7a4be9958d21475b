"""Execution of a plan, phase by phase. In: a :class:`TrainingPlan`. Out: its ``output_dir``; see ``run``.

A phase's manifest is written last and contains the hash of every other file, so a phase is complete if its manifest
exists and all hashes match. A killed run resumes at the first incomplete phase, from its newest intact checkpoint.

``run.json`` claims the output folder only after the plan has passed all checks (batches, device, rows, image files,
base model), so that a refused plan writes nothing.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import PreTrainedModel

from toolkit.data.image_files import check_images
from toolkit.data.llava import read_llava
from toolkit.data.protocols import Processor
from toolkit.data.rows import Rows, encode_rows
from toolkit.events import Emit, is_first_of_machine, is_main_process, tagged
from toolkit.files import flush, json_sha256, write_atomically, write_json
from toolkit.jobs import limit_threads
from toolkit.models import architecture_of
from toolkit.models.base import Architecture
from toolkit.tensor_files import apply_umask, save_tensors, writing
from toolkit.training.base_model import PROJECTOR_FILE, check_base, load_base, load_processor, load_trained
from toolkit.training.checkpoint import remove_all, remove_partial
from toolkit.training.folder import alone_in, check_folder, claim_folder
from toolkit.training.identity import training_identity
from toolkit.training.manifest import MANIFEST, is_complete, phase_manifest, result_files
from toolkit.training.phase import PhaseResult, check_device, train_phase
from toolkit.training.plan import PhasePlan, TrainingPlan


def train(plan: TrainingPlan, emit: Emit) -> None:
    """Train all incomplete phases of a plan.

    Raises:
        PlanError: the output folder belongs to another training or is in use by another run, the batches do not match
            the global batch, the device does not exist, or the base model cannot be loaded.
        DataError, LabelError, ImageError, CheckpointError: the data or a checkpoint cannot be used.
        EnvironmentFault: the environment prevents this process from reading a file.
        LossError: the loss became NaN or infinite, or diverged.
    """
    emit = tagged(emit, output_dir=str(plan.output_dir))
    identity = training_identity(plan)
    check_folder(plan, identity)
    # Damage is reported later, when the phase is trained again.
    complete = complete_phases(plan, identity, lambda event: None)
    if all(complete):
        if is_main_process():
            for phase in plan.stages:  # left by a run that was killed right after its last manifest
                remove_all(plan.output_dir / phase.name)
        emit({"event": "done", "cached": True, "seconds": 0.0})
        return
    check_device(plan)
    check_base(plan.base_model)
    architecture = architecture_of(plan.base_model)
    processor = load_processor(architecture, plan)
    todo = [phase for phase, is_done in zip(plan.stages, complete, strict=True) if not is_done]
    rows: dict[str, Rows] = {phase.name: read_rows(phase, processor) for phase in todo}
    model = load_base(architecture, plan)
    claim_folder(plan, identity)
    with alone_in(plan.output_dir):
        _train(plan, identity, architecture, model, processor, rows, emit)


def _train(
    plan: TrainingPlan, identity: dict[str, Any], architecture: Architecture, model: PreTrainedModel,
    processor: Processor, rows: dict[str, Rows], emit: Emit,
) -> None:  # fmt: skip
    began, key = time.monotonic(), json_sha256(identity)
    limit_threads(model.num_parameters(), on_cpu=plan.device == "cpu")
    # Check again, because another run may have used the folder while this one waited for the lock.
    for phase, complete in zip(plan.stages, complete_phases(plan, identity, emit), strict=True):
        folder = plan.output_dir / phase.name
        if is_main_process():
            (remove_all if complete else remove_partial)(folder)
        if complete:
            load_trained(architecture, model, folder)
            emit({"event": "stage_done", "stage": phase.name, "cached": True})
            continue
        of_phase = rows.pop(phase.name, None) or read_rows(phase, processor)
        result = train_phase(architecture, model, processor, plan, phase, of_phase, emit, key)
        if is_main_process():
            with writing(folder):
                write_phase(folder, architecture, model, processor, plan, phase, result, key)
        if phase.deepspeed is not None:
            leave_deepspeed()
        if phase is not plan.stages[-1] and (phase.deepspeed is not None or plan.dtype == "bfloat16"):
            # Reload in float32, without the hooks that a DeepSpeed engine leaves on parameters.
            model = load_base(architecture, plan)
            load_trained(architecture, model, folder)
        seconds = result.cost["seconds"]
        rate = round(result.steps * phase.global_batch / seconds, 2)
        ended = {"steps": result.steps, "loss": result.losses[-1], "seconds": round(seconds, 2)}
        emit({"event": "stage_done", "stage": phase.name, "cached": False, "samples_per_s": rate, **ended})
    seconds = round(time.monotonic() - began, 2)
    emit({"event": "done", "cached": False, "seconds": seconds})


def complete_phases(plan: TrainingPlan, identity: dict[str, Any], emit: Emit) -> list[bool]:
    """Return for each phase whether it is complete; report a finished phase that is damaged."""

    def report(message: str) -> None:
        emit({"event": "damaged", "message": message})

    key = json_sha256(identity)
    return [is_complete(plan.output_dir / phase.name, key, report) for phase in plan.stages]


def read_rows(phase: PhasePlan, processor: Processor) -> Rows:
    """Read, validate and tokenise a phase's data, and check that all its image files exist."""
    phase.accumulation_for(int(os.environ.get("WORLD_SIZE", "1")))
    samples = read_llava(phase.data, phase.images)
    # Once per machine, because its processes share the file systems.
    if is_first_of_machine():
        check_images(samples, phase.data, phase.images)
    return encode_rows(samples, processor)


def leave_deepspeed() -> None:
    """Reset global DeepSpeed state: the next phase or plan in this process may use another configuration, or none."""
    PartialState().wait_for_everyone()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    # Trainer stores its choice in the environment, where the next Trainer would read it.
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION"):
        os.environ.pop(name, None)


def write_phase(
    folder: Path, architecture: Architecture, model: PreTrainedModel, processor: Processor, plan: TrainingPlan,
    phase: PhasePlan, result: PhaseResult, key: str,
) -> None:  # fmt: skip
    """Write a phase's results, the manifest last, and then remove its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    if phase.trained == "projector":
        weights = model.state_dict().items()
        trained = {k: v.detach().cpu().contiguous() for k, v in weights if k.startswith(architecture.projector)}
        save_tensors(trained, folder / PROJECTOR_FILE, metadata={"format": "pt"})
        model.config.save_pretrained(folder)
    else:
        if plan.dtype == "bfloat16":
            # One dtype on disk. The forward passes used the weights rounded to bfloat16, so nothing is lost.
            cast(torch.nn.Module, model).to(torch.bfloat16)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        apply_umask(folder)
    lines = (json.dumps(ids, ensure_ascii=False, separators=(",", ":")) for ids in result.samples)
    write_atomically(folder / "samples.jsonl", "".join(line + "\n" for line in lines))
    for path in [*result_files(folder), folder]:
        flush(path)
    write_json(folder / MANIFEST, phase_manifest(folder, plan, phase, result, key))
    remove_all(folder)
