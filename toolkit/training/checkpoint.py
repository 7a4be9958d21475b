"""Checkpoints inside a phase: a killed run resumes from one and continues exactly as if it had not been interrupted.

Out, under ``<phase>/checkpoints/step-000100/``: trained weights (never the frozen ones), optimizer, learning-rate
schedule, random states of every process, losses so far, and ``complete.json`` with the size and hash of each file. A
checkpoint is written to a temporary folder, ``complete.json`` last, flushed to disk and then renamed. Its files are
verified against their hashes before it is loaded; the newest intact checkpoint is used. With several machines, all of
them must share the folder.

Weights are stored as safetensors. Optimizer, schedule and random states are torch files, i.e. pickles. They are loaded
with ``weights_only``, DeepSpeed's included, so that a file can contain tensors and plain values but run no code.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.files import flush, write_json
from toolkit.tensor_files import save_tensors, writing
from toolkit.training.cost import Meter
from toolkit.training.file_record import MarkerError, find_damage, read_marker, record_files
from toolkit.training.plan import PlanError
from toolkit.training.random_state import random_state, set_random_state
from toolkit.training.torch_files import deepspeed_values, read_state, weights_only
from toolkit.training.trainer import ExposureTrainer

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

FOLDER = "checkpoints"
_MARK, _PARTIAL, _ENGINE = "complete.json", ".partial", "deepspeed"
_VALUES = ("step", "losses", "processes", "resumed_from", "cost")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An intact checkpoint: step, losses and cost up to it, processes, and steps of earlier resumptions."""

    path: Path
    step: int
    losses: list[float]
    processes: int
    resumed_from: list[int]
    cost: dict[str, float | None]


def newest(folder: Path, key: str, report: Callable[[Path, str], None]) -> Checkpoint | None:
    """Return the newest intact checkpoint of a phase's folder, or None.

    Args:
        folder: the phase's folder.
        key: of the run.
        report: called with each newer, damaged checkpoint and a description of the damage.

    Raises:
        PlanError: the checkpoint belongs to another plan, data or base model.
        EnvironmentFault: the file system does not let this user read it.
    """
    for path in sorted((folder / FOLDER).glob("step-*[0-9]"), reverse=True):
        try:
            mark = read_marker(path / _MARK, ("key", "files", *_VALUES))
        except MarkerError as error:
            report(path, str(error))
            continue
        if mark["key"] != key:
            raise PlanError(f"checkpoint: {str(path)!r} belongs to another plan, data or base model; remove it")
        damage = find_damage(path, mark["files"])
        if damage is None:
            return Checkpoint(path=path, **{name: mark[name] for name in _VALUES})
        report(path, damage)
    return None


def remove_partial(folder: Path) -> None:
    """Remove incomplete checkpoints of a killed process."""
    for path in (folder / FOLDER).glob(f"*{_PARTIAL}"):
        shutil.rmtree(path)


def remove_all(folder: Path) -> None:
    """Remove all checkpoints of a complete phase."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


class Checkpoints(TrainerCallback):
    """Trainer callback that restores a checkpoint before the first step and writes one every ``every`` steps.

    Args:
        folder: the phase's folder.
        key: of the run.
        every: steps between checkpoints; None writes no checkpoints.
        limit: number of checkpoints to keep.
        start: checkpoint to resume from; None starts from the first step.
        meter: measures the phase; started before the first step.
    """

    def __init__(
        self, folder: Path, key: str, *, every: int | None, limit: int, start: Checkpoint | None, meter: Meter
    ) -> None:  # fmt: skip
        self.folder, self.key, self.every, self.limit, self.start = folder / FOLDER, key, every, limit, start
        self.meter = meter
        self.trainer: ExposureTrainer | None = None
        self._random: dict[str, Any] | None = None

    @property
    def resumed_from(self) -> list[int]:
        """Steps from which this run was resumed, oldest first."""
        return [*self.start.resumed_from, self.start.step] if self.start else []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self._trainer()
        if self.start is not None:
            if trainer.is_deepspeed_enabled and self.start.processes != args.world_size:
                raise PlanError(
                    f"checkpoint: {str(self.start.path)!r} was written by {self.start.processes} DeepSpeed processes "
                    f"and cannot be read by {args.world_size}; start {self.start.processes} processes, or remove it"
                )
            _restore(trainer, self.start.path)
            trainer.continue_from(self.start.losses)
            state.global_step = trainer._globalstep_last_logged = self.start.step
            file = self.start.path / _random_file(args.process_index)
            if self.start.processes == args.world_size:
                self._random = read_state(file)
        self.meter.start()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Not earlier, because starting the loader also draws random numbers.
        if self._random is not None:
            set_random_state(self._random)
            self._random = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every is None or state.global_step % self.every or state.global_step == state.max_steps:
            return
        trainer, step = self._trainer(), state.global_step
        trainer.check_weights()
        final = self.folder / f"step-{step:06d}"
        partial = final.with_suffix(_PARTIAL)
        wait = trainer.accelerator.wait_for_everyone
        if args.process_index == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait()
        with writing(final):
            torch.save(random_state(), partial / _random_file(args.process_index))
            _save(trainer, partial)
        cost = self.meter.read()
        wait()
        if args.process_index == 0:
            mark = {"step": step, "losses": trainer.losses, "cost": cost, "processes": args.world_size}
            files = record_files(partial, (path for path in partial.rglob("*") if path.is_file()))
            mark |= {"resumed_from": self.resumed_from, "files": files}
            with writing(final):
                write_json(partial / _MARK, {**mark, "key": self.key})
                publish(partial, final)
            for old in sorted(self.folder.glob("step-*[0-9]"))[: -self.limit]:
                shutil.rmtree(old)
        wait()

    def _trainer(self) -> ExposureTrainer:
        assert self.trainer is not None
        return self.trainer


def publish(partial: Path, final: Path) -> None:
    """Flush a folder and its files to disk, then rename it to ``final``."""
    for path in [*partial.rglob("*"), partial]:
        flush(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    flush(final.parent)


def _trained(trainer: ExposureTrainer) -> dict[str, torch.nn.Parameter]:
    model: torch.nn.Module = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _save(trainer: ExposureTrainer, folder: Path) -> None:
    if trainer.is_deepspeed_enabled:
        engine: DeepSpeedEngine = trainer.model_wrapped
        engine.save_checkpoint(str(folder), tag=_ENGINE, save_latest=False, exclude_frozen_parameters=True)
    if trainer.args.process_index:
        return
    assert trainer.lr_scheduler is not None and trainer.optimizer is not None
    torch.save(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
    if not trainer.is_deepspeed_enabled:
        weights = {name: value.detach().cpu().contiguous() for name, value in _trained(trainer).items()}
        save_tensors(weights, folder / "trained.safetensors")
        torch.save(trainer.optimizer.state_dict(), folder / "optimizer.pt")


def _restore(trainer: ExposureTrainer, folder: Path) -> None:
    assert trainer.lr_scheduler is not None and trainer.optimizer is not None
    if trainer.is_deepspeed_enabled:
        engine: DeepSpeedEngine = trainer.model_wrapped
        # Not strict, because it lacks the frozen weights; the run's key guarantees that the others match.
        with weights_only(folder), torch.serialization.safe_globals(deepspeed_values()):
            engine.load_checkpoint(str(folder), tag=_ENGINE, load_module_strict=False, load_lr_scheduler_states=False)
    else:
        stored = load_file(folder / "trained.safetensors")
        with torch.no_grad():
            for name, value in _trained(trainer).items():
                value.copy_(stored[name])
        trainer.optimizer.load_state_dict(read_state(folder / "optimizer.pt"))
    trainer.lr_scheduler.load_state_dict(read_state(folder / "scheduler.pt"))
    for group, rate in zip(trainer.optimizer.param_groups, trainer.lr_scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def _random_file(process: int) -> str:
    return f"random-{process}.pt"
