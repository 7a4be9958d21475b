"""A whole plan, stage by stage. In: a :class:`Plan`. Out: its ``output_dir``, laid out as ``toolkit.train.run`` says.

A stage's manifest is written last, so its existence means that the stage is complete: a run that was killed goes on
with the first stage without one, from that stage's newest checkpoint.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file, save_file

from toolkit.convert_weights import load_projector
from toolkit.events import Emit, is_main_process, tagged
from toolkit.files import write_atomically, write_json
from toolkit.jobs import limit_threads
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.names import TRAINED_IN_STAGE_1
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.train.checkpoint import remove_all, remove_partial
from toolkit.train.manifest import MANIFEST, is_complete, run_key, stage_manifest
from toolkit.train.plan import Plan, PlanError, StagePlan, to_values
from toolkit.train.stage import StageResult, train_stage

PROJECTOR_FILE = "projector.safetensors"
LOCK_WAIT = 10.0
"""Seconds that a run waits for one that is just ending in its folder."""


def train(plan: Plan, emit: Emit) -> None:
    """Train all stages of a plan, or find them complete.

    Raises:
        PlanError: the output folder belongs to something else, or another run is at work in it.
        ValueError: data that cannot be used.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    emit = tagged(emit, output_dir=str(plan.output_dir))
    key = run_key(plan)
    claim_folder(plan, key)
    if all(is_complete(plan.output_dir / stage.name, key) for stage in plan.stages):
        emit({"event": "done", "cached": True, "seconds": 0.0})
        return
    with alone_in(plan.output_dir):
        _train(plan, key, emit)


def _train(plan: Plan, key: str, emit: Emit) -> None:
    began = time.monotonic()
    done = [is_complete(plan.output_dir / stage.name, key) for stage in plan.stages]
    model = load_base(plan)
    limit_threads(model.num_parameters(), on_cpu=plan.device == "cpu")
    processor = MGMProcessor.from_pretrained(plan.base_model)
    for stage, complete in zip(plan.stages, done, strict=True):
        folder = plan.output_dir / stage.name
        if is_main_process():
            (remove_all if complete else remove_partial)(folder)
        if complete:
            load_trained(model, folder)
            emit({"event": "stage_done", "stage": stage.name, "cached": True})
            continue
        result = train_stage(model, processor, plan, stage, emit, key)
        if is_main_process():
            write_stage(folder, model, processor, plan, stage, result, key)
        if stage.deepspeed is not None:
            leave_deepspeed()
        if stage is not plan.stages[-1] and (stage.deepspeed is not None or plan.dtype == "bfloat16"):
            # In float32 again, and without the hooks that an engine leaves on parameters.
            model = load_base(plan)
            load_trained(model, folder)
        rate = round(result.steps * stage.global_batch / result.seconds, 2)
        ended = {"steps": result.steps, "loss": result.losses[-1], "seconds": round(result.seconds, 2)}
        emit({"event": "stage_done", "stage": stage.name, "cached": False, "samples_per_s": rate, **ended})
    seconds = round(time.monotonic() - began, 2)
    emit({"event": "done", "cached": False, "seconds": seconds})


def load_base(plan: Plan) -> MGMGemmaForCausalLM:
    """The base model in float32, with the plan's projector; what is held in bfloat16 is the stage's business."""
    model = MGMGemmaForCausalLM.from_pretrained(plan.base_model, dtype=torch.float32)
    if plan.projector is not None:
        load_projector(model, plan.projector)
    return model


def leave_deepspeed() -> None:
    """Forget the last stage's DeepSpeed engine: the next stage or plan of this process may have another, or none."""
    PartialState().wait_for_everyone()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    # Trainer leaves its choice in the environment, where the next one finds it.
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION"):
        os.environ.pop(name, None)


def claim_folder(plan: Plan, key: str) -> None:
    """Take an empty folder, or one that the same plan left; refuse any other."""
    mark = plan.output_dir / "run.json"
    if mark.is_file():
        found = json.loads(mark.read_text("utf-8"))["key"]
        if found != key:
            raise PlanError(
                f"output_dir: {str(plan.output_dir)!r} holds a run of another plan, data or base model "
                f"({found[:12]}, this is {key[:12]}); give an empty folder"
            )
    elif is_main_process():
        # The other processes come too early or too late to judge what the first one is just writing.
        if plan.output_dir.is_dir() and any(plan.output_dir.iterdir()):
            where = str(plan.output_dir)
            raise PlanError(f"output_dir: {where!r} holds other files but no run.json; give an empty folder")
        write_json(mark, {"key": key, "plan": to_values(plan)})


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a claimed folder, while this process lives.

    When a launcher is killed, the processes that it started may live on and go on writing there.

    Raises:
        PlanError: another run is still at work in the folder.
    """
    if not is_main_process():
        yield
        return
    with (folder / "run.json").open("r+") as mark:
        until = time.monotonic() + LOCK_WAIT
        while True:
            try:
                # A POSIX lock: loader processes do not inherit it, and it goes with the process, however that ends.
                fcntl.lockf(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    break  # a file system without locks
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if time.monotonic() > until:
                    raise PlanError(
                        f"output_dir: {str(folder)!r} is in use by another run; wait for it, or end its processes "
                        "(they may outlive a launcher that was killed)"
                    ) from error
            time.sleep(0.2)
        yield


def write_stage(
    folder: Path, model: MGMGemmaForCausalLM, processor: MGMProcessor, plan: Plan, stage: StagePlan,
    result: StageResult, key: str,
) -> None:  # fmt: skip
    """Write a stage's results; the manifest last, then the checkpoints have had their use."""
    folder.mkdir(parents=True, exist_ok=True)
    if stage.trained == "projector":
        weights = model.state_dict().items()
        trained = {k: v.detach().cpu().contiguous() for k, v in weights if k.startswith(TRAINED_IN_STAGE_1)}
        save_file(trained, folder / PROJECTOR_FILE, metadata={"format": "pt"})
        model.config.save_pretrained(folder)
    else:
        if plan.dtype == "bfloat16":
            # One type on disk, and the values that the forward passes used: the masters' last digits were never read.
            cast(torch.nn.Module, model).to(torch.bfloat16)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    lines = (json.dumps(ids, ensure_ascii=False, separators=(",", ":")) for ids in result.samples)
    write_atomically(folder / "samples.jsonl", "".join(line + "\n" for line in lines))
    write_json(folder / MANIFEST, stage_manifest(folder, plan, stage, result, key))
    remove_all(folder)


def load_trained(model: MGMGemmaForCausalLM, folder: Path) -> None:
    """Put a complete stage's weights into the model."""
    for file in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(load_file(file), strict=False)
