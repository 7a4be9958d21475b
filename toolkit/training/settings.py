"""Hyper-parameters of a training: the fields that a plan and a profile of ``bettersynth_assets`` have in common.

A new knob is one field here and the line that uses it. A plan (``toolkit.training.plan``) and a profile take it from
here, with its default and its check. It counts in ``run.json`` and in the keys of checkpoints unless it is marked.
Defaults are the kit's.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from toolkit.settings import NotInKey, SettingsError, SettingsModel

KIT_GROUP = 8
"""Rows that the kit takes the mean loss of."""
ROUNDS = NotInKey("changes how a step is cut and computed: only the rounding of weights")
SAME_WEIGHTS = NotInKey("the trained weights are the same")
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class PlanError(SettingsError):
    """A plan that cannot be run; names the key, its value and the fix."""


class StageSettings(SettingsModel):
    """Hyper-parameters of stage 1 (projector) or stage 2 (projector and language model)."""

    error = PlanError

    global_batch: int = Field(ge=1)
    """Rows per optimizer step, over all processes."""
    per_device_batch: Annotated[int, ROUNDS] = Field(ge=1)
    """Rows that a process takes at once."""
    learning_rate: float = Field(gt=0)
    accumulation: Annotated[int | None, ROUNDS] = Field(default=None, ge=1)
    """Micro-batches per step. None follows from the batches and the number of processes; given, it is checked."""
    max_steps: int | None = Field(default=None, ge=1)
    """None is one epoch over the data, rounded down to whole steps."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float | None = Field(default=None, gt=0)
    """None clips nothing, as in the kit."""
    deepspeed: Annotated[str | None, NotInKey("counts by the file's content")] = None
    """Path of a DeepSpeed JSON."""
    loss_group: int | None = Field(default=None, ge=1)
    """Rows, in the order of the seed, whose mean loss counts once under ``loss_average: micro_batch``; the kit's
    micro-batch is 8. None is 8 as well, or where 8 does not divide ``global_batch`` the largest number that divides
    both. The loss does not depend on ``per_device_batch`` and the number of processes."""
    pad_multiple: Annotated[int, ROUNDS] = Field(default=1, ge=1)
    """Sequences are padded to a multiple of it, so that compiled shapes repeat."""
    workers: Annotated[int, SAME_WEIGHTS] = Field(default=0, ge=0)
    """Loader processes per training process; 0 loads in the training process."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.global_batch % self.group:
            raise ValueError(
                f"loss_group {self.loss_group} does not divide global_batch {self.global_batch}; use 8, as the kit does"
            )
        return self

    @property
    def group(self) -> int:
        """Rows whose mean loss counts once, see ``loss_group``."""
        return self.loss_group or math.gcd(KIT_GROUP, self.global_batch)

    def key(self, use: str | None = None) -> dict[str, Any]:
        """All that counts; None for ``loss_group`` and the number that it stands for are the same."""
        return super().key(use) | {"loss_group": self.group}


class TrainingSettings(SettingsModel):
    """Settings of a whole training."""

    error = PlanError

    loss_average: Literal["micro_batch", "token"] = "micro_batch"
    """``micro_batch`` as in the kit (rows of ``loss_group``), or ``token``."""
    speed: Annotated[Literal["auto", "reference"] | dict[str, bool], ROUNDS] = "auto"
    """``reference`` computes in the original's order, with activation checkpointing; or single switches on top of
    ``auto``, e.g. ``{compiled: false}`` (toolkit/models/mgm/speed.py)."""
    log_every: Annotated[int, SAME_WEIGHTS] = Field(default=10, ge=1)
    """Steps between two lines of the log."""
    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], SAME_WEIGHTS] = ()
    """Logs beside the run's own."""
    checkpoint_every: Annotated[int | None, SAME_WEIGHTS] = Field(default=None, ge=1)
    """Steps between checkpoints, from which a killed run goes on; None repeats a stage that was killed."""
    checkpoint_limit: Annotated[int, SAME_WEIGHTS] = Field(default=1, ge=1)
    """Checkpoints kept."""
