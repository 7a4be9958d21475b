"""Training hyperparameters: the fields shared by plans and by the profiles of ``bettersynth_assets``.

To add a hyperparameter, add one field here and the code that reads it. Plans (``toolkit.training.plan``) and profiles
inherit the field with its default and its validation. It is part of ``run.json`` and of the keys of checkpoints unless
it is marked. Defaults are those of the contest kit.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from toolkit.settings import NotInKey, SettingsError, SettingsModel

KIT_GROUP = 8
"""Rows in a micro-batch of the kit, over which it averages the loss."""
ROUNDS = NotInKey("changes how a step is split and computed, which affects only the rounding of weights")
SAME_WEIGHTS = NotInKey("does not affect the trained weights")
RandomSeed = Annotated[int, Field(ge=0, lt=2**32)]


class PlanError(SettingsError):
    """An invalid plan; the message names the key, its value and the fix."""


class PhaseSettings(SettingsModel):
    """Hyperparameters of a phase: ``pretrain`` (projector) or ``finetune`` (projector and language model)."""

    error = PlanError

    global_batch: int = Field(ge=1)
    """Rows per optimizer step, over all processes."""
    per_device_batch: Annotated[int, ROUNDS] = Field(ge=1)
    """Rows per micro-batch of one process."""
    learning_rate: float = Field(gt=0)
    accumulation: Annotated[int | None, ROUNDS] = Field(default=None, ge=1)
    """Micro-batches per step. None computes it from the batch sizes and the number of processes."""
    max_steps: int | None = Field(default=None, ge=1)
    """None trains one epoch, rounded down to whole steps."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Maximum gradient norm. None disables clipping, as in the kit."""
    deepspeed: Annotated[str | None, NotInKey("the content of the file is in the identity")] = None
    """Path of a DeepSpeed JSON file."""
    loss_group: int | None = Field(default=None, ge=1)
    """Number of rows in a loss group under ``loss_average: micro_batch``: the loss is averaged over the tokens of each
    group of consecutive rows, then over the groups. This makes it independent of ``per_device_batch`` and the number of
    processes. None uses the greatest common divisor of 8, the kit's micro-batch, and ``global_batch``."""
    pad_multiple: Annotated[int, ROUNDS] = Field(default=1, ge=1)
    """Pad sequences to a multiple of this length, so that compiled shapes repeat."""
    workers: Annotated[int, SAME_WEIGHTS] = Field(default=0, ge=0)
    """Data loader processes per training process; 0 loads data in the training process."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.global_batch % self.group:
            raise ValueError(
                f"loss_group {self.loss_group} does not divide global_batch {self.global_batch}; use 8, as the kit does"
            )
        return self

    @property
    def group(self) -> int:
        """Number of rows in a loss group; see ``loss_group``."""
        return self.loss_group or math.gcd(KIT_GROUP, self.global_batch)

    def key(self, use: str | None = None) -> dict[str, Any]:
        """Return the key's values, with the resolved number of rows for ``loss_group``."""
        return super().key(use) | {"loss_group": self.group}


class TrainingSettings(SettingsModel):
    """Settings of a complete training."""

    error = PlanError

    loss_average: Literal["micro_batch", "token"] = "micro_batch"
    """How the loss of a step is averaged: ``micro_batch`` over groups of ``loss_group`` rows, as in the kit; ``token``
    over all tokens."""
    projector_start: Literal["random", "regression"] = "random"
    """Weights of a new projector: ``random`` depends on the training seed only, as in the contest; ``regression`` then
    fits the last layer to the phase's rows, so that short trainings of small models differ less between seeds
    (toolkit/training/projector_start.py)."""
    speed: Annotated[Literal["auto", "reference"] | dict[str, bool], ROUNDS] = "auto"
    """``auto`` selects the optimizations for the device. ``reference`` computes in the order of the original code, with
    activation checkpointing. A mapping sets single switches on top of ``auto``, e.g. ``{compiled: false}``
    (toolkit/models/mgm/common/speed.py)."""
    log_every: Annotated[int, SAME_WEIGHTS] = Field(default=10, ge=1)
    """Steps between progress events."""
    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], SAME_WEIGHTS] = ()
    """Additional loggers."""
    checkpoint_every: Annotated[int | None, SAME_WEIGHTS] = Field(default=None, ge=1)
    """Steps between checkpoints, from which a killed run resumes. Without them (None), a killed phase restarts."""
    checkpoint_limit: Annotated[int, SAME_WEIGHTS] = Field(default=1, ge=1)
    """Number of checkpoints to keep."""
