"""Progress events of a phase, every ``log_every`` steps and at the last step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.events import Emit
from toolkit.progress import Pace
from toolkit.training.trainer import ExposureTrainer


class Progress(TrainerCallback):
    """Emits ``step`` events: loss, learning rate, samples/s since the previous event, peak GPU memory."""

    def __init__(self, *, phase: str, global_batch: int, log_every: int, emit: Emit) -> None:
        self.phase, self.global_batch, self.log_every, self.emit = phase, global_batch, log_every, emit
        self.trainer: ExposureTrainer | None = None
        self._since, self._pace = 0, Pace()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since = state.global_step
        self._pace.restart()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.trainer is not None
        step = state.global_step
        if args.process_index or (step % self.log_every and step != state.max_steps):
            return
        rate = self._pace.rate((step - self._since) * self.global_batch)
        self._since = step
        self._pace.restart()
        scheduler = kwargs.get("lr_scheduler")
        lr = scheduler.get_last_lr()[0] if scheduler else None
        loss = round(self.trainer.losses[-1], 6)
        where = {"event": "step", "stage": self.phase, "step": step, "steps": state.max_steps}
        event = {**where, "loss": loss, "lr": lr, "samples_per_s": round(rate, 2)}
        if args.device.type == "cuda":
            event["peak_gib"] = round(torch.cuda.max_memory_allocated(args.device) / 2**30, 2)
        self.emit(event)
