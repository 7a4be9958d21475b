"""Hugging Face's Trainer with a fixed order of samples, a guard against bad losses, and progress as JSON lines.

In: exposures already in order. Out: a trained model, and the loss of every step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolkit.events import Emit
from toolkit.train.plan import NonFiniteLossError


class FixedOrder(Sampler[int]):
    """Hands out the given indices, in order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Any:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class MGMTrainer(Trainer):
    """Trains on exposures in the given order; keeps each step's loss in ``losses``.

    Args:
        order: index of the sample of each exposure, ``steps * global batch`` of them.
        token_average: loss per supervised token of the whole step instead of the mean of micro-batch means (kit).
    """

    def __init__(self, *, order: Sequence[int], token_average: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order
        self.model_accepts_loss_kwargs = token_average
        self.losses: list[float] = []
        self._step_loss = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return FixedOrder(self.order)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: Trainer's estimate walks over all parameters in every step, and nothing here reads it."""
        return 0

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """One micro-batch; raises :class:`NonFiniteLossError` before such a loss can reach the weights."""
        ids = inputs.pop("sample_ids")
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss)
        if not torch.isfinite(loss):
            step = self.state.global_step + 1
            raise NonFiniteLossError(f"loss is {value} in step {step}; samples of the batch: {', '.join(ids)}")
        self._step_loss += value
        return loss

    def close_step(self) -> float:
        """Mean over processes of the step's loss; called once per optimizer step."""
        own = torch.tensor(self._step_loss, device=self.args.device)
        self._step_loss = 0.0
        mean = float(self.accelerator.gather(own).mean()) if self.args.world_size > 1 else float(own)
        self.losses.append(mean)
        return mean


class Progress(TrainerCallback):
    """Reports every ``log_every`` steps, and the last one, as a dictionary."""

    def __init__(self, *, stage: str, global_batch: int, log_every: int, emit: Emit) -> None:
        self.stage, self.global_batch, self.log_every, self.emit = stage, global_batch, log_every, emit
        self.trainer: MGMTrainer | None = None
        self._since, self._at = 0, time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._since, self._at = state.global_step, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.trainer is not None
        loss = self.trainer.close_step()
        step = state.global_step
        if step % self.log_every and step != state.max_steps:
            return
        now = time.monotonic()
        rate = (step - self._since) * self.global_batch / max(now - self._at, 1e-9)
        self._since, self._at = step, now
        scheduler = kwargs.get("lr_scheduler")
        if args.process_index == 0:
            where = {"event": "step", "stage": self.stage, "step": step, "steps": state.max_steps}
            lr = scheduler.get_last_lr()[0] if scheduler else None
            self.emit({**where, "loss": round(loss, 6), "lr": lr, "samples_per_s": round(rate, 2)})
