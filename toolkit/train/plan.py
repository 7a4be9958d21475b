"""What to train, checked before anything heavy is loaded. In: a YAML or JSON file. Out: a frozen :class:`Plan`.

::

    base_model: weights/mgm           # complete checkpoint: model, tokenizer, preprocessing
    extensions: []                    # Python files that register architectures; see docs/extending.md
    projector: null                   # projector to start from, e.g. the kit's mm_projector.bin; null: base_model's
    output_dir: runs/seed-0           # empty, or left by the same plan
    seed: 0
    device: auto                      # auto | cpu | cuda
    dtype: float32                    # float32 | bfloat16 (trained weights keep float32 masters)
    speed: auto                       # auto | reference (as the original computes) | {compiled: false}, see the
                                      # architecture, e.g. toolkit.mgm.speed
    cache_dir: cache/features         # null: towers run in every step
    loss_average: micro_batch         # micro_batch as in the kit (loss_group rows) | token
    log_every: 10
    report_to: []                     # tensorboard, wandb, mlflow
    checkpoint_every: 100             # steps; null: a killed stage starts anew
    checkpoint_limit: 1               # checkpoints kept
    memory_limit_gib: null            # most memory of each GPU
    stages:
      - {name: pretrain, data: pretrain.json, images: images, trained: projector, image_aspect: square,
         global_batch: 256, per_device_batch: 8, learning_rate: 1.0e-3}
      - {name: finetune, data: finetune.json, images: images, trained: projector+llm, image_aspect: pad,
         global_batch: 128, per_device_batch: 8, learning_rate: 2.0e-5, group_by_modality_length: true}

Paths are taken relative to the working folder. Defaults of the rest are the kit's.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from toolkit.mgm.aspect import ASPECTS, Aspect
from toolkit.models import ArchitectureError, model_type
from toolkit.registry import RegistryError, load_extensions
from toolkit.settings_files import SettingsFileError, read_settings_file
from toolkit.train.values import PlanError, build, need, one_of

__all__ = [
    "DivergedLossError", "LossError", "NonFiniteLossError", "Plan", "PlanError", "StagePlan", "parse_plan", "read_plan",
    "to_values",
]  # fmt: skip

StageName = Literal["pretrain", "finetune"]
Trained = Literal["projector", "projector+llm"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
LossAverage = Literal["micro_batch", "token"]
REPORTERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Package that each kind of log needs."""
KIT_GROUP = 8
"""Rows that the kit takes the mean loss of."""


class LossError(RuntimeError):
    """A loss that training cannot go on with; names the step and the samples of its batch."""


class NonFiniteLossError(LossError):
    """The loss, or a trained weight, became NaN or infinite."""


class DivergedLossError(LossError):
    """The loss exploded; see :mod:`toolkit.train.divergence`."""


def rows_of_a_mean(loss_group: int | None, global_batch: int) -> int:
    """Rows whose mean loss counts once under ``loss_average: micro_batch``; see ``StagePlan``."""
    return loss_group or math.gcd(KIT_GROUP, global_batch)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage.

    ``max_steps``: None is one epoch, rounded down to whole steps. ``accumulation``: None follows from the batches and
    the number of processes; given, it is checked. ``max_grad_norm``: None clips nothing, as in the kit.
    ``fresh_projector``: None starts the projector anew in ``pretrain`` only, unless the plan has one. ``deepspeed``:
    path of a DeepSpeed JSON. ``loss_group``: rows, in the order of the seed, whose mean loss counts once; the kit's
    micro-batch is 8. None is 8 as well, or where 8 does not divide ``global_batch`` the largest number that divides
    both. It counts for ``loss_average: micro_batch`` alone, and makes the loss independent of ``per_device_batch`` and
    of how the rows are dealt to processes and micro-batches. ``pad_multiple``: sequences are padded to a
    multiple of it, so that compiled shapes repeat. ``workers``: loader processes per training process; 0 loads in the
    training process.
    """

    name: StageName
    data: Path
    images: Path
    trained: Trained
    image_aspect: Aspect
    global_batch: int
    per_device_batch: int
    learning_rate: float
    accumulation: int | None = None
    max_steps: int | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float | None = None
    group_by_modality_length: bool = False
    fresh_projector: bool | None = None
    deepspeed: str | None = None
    loss_group: int | None = None
    pad_multiple: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        one_of("name", self.name, get_args(StageName))
        one_of("trained", self.trained, get_args(Trained))
        one_of("image_aspect", self.image_aspect, ASPECTS)
        for key in ("global_batch", "per_device_batch", "learning_rate", "pad_multiple"):
            need(getattr(self, key) > 0, key, getattr(self, key), "must be positive")
        for key in ("accumulation", "max_steps", "max_grad_norm", "loss_group"):
            value = getattr(self, key)
            need(value is None or value > 0, key, value, "must be positive or null")
        need(self.workers >= 0, "workers", self.workers, "must be at least 0")
        whole = self.loss_group is None or self.global_batch % self.loss_group == 0
        need(
            whole,
            "loss_group",
            self.loss_group,
            f"does not divide global_batch {self.global_batch}; use 8, as the kit does",
        )
        need(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must be at least 0 and under 1")
        need(self.data.is_file(), "data", self.data, "is no file; give a LLaVA JSON file")
        need(self.images.is_dir(), "images", self.images, "is no folder; give the folder that image paths start from")
        if self.deepspeed is not None:
            need(Path(self.deepspeed).is_file(), "deepspeed", self.deepspeed, "is no file; give a DeepSpeed JSON")

    @property
    def group(self) -> int:
        """Rows whose mean loss counts once, see ``loss_group``."""
        return rows_of_a_mean(self.loss_group, self.global_batch)

    def accumulation_for(self, processes: int) -> int:
        """Micro-batches per step.

        Raises:
            PlanError: batch, accumulation and processes do not multiply to ``global_batch``. The kit's check lets such
                a run through; a model trained at another global batch must not pass for one at this.
        """
        at_once = self.per_device_batch * processes
        steps = self.accumulation or max(1, self.global_batch // at_once)
        if at_once * steps != self.global_batch:
            raise PlanError(
                f"stage {self.name}: global_batch {self.global_batch} is not per_device_batch {self.per_device_batch} "
                f"× {processes} processes × accumulation {steps}; change per_device_batch or accumulation"
            )
        return steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole training; see the module's text for a file."""

    base_model: Path
    output_dir: Path
    seed: int
    stages: tuple[StagePlan, ...]
    projector: Path | None = None
    device: Device = "auto"
    dtype: Dtype = "float32"
    cache_dir: Path | None = None
    loss_average: LossAverage = "micro_batch"
    log_every: int = 10
    speed: str | dict[str, bool] = "auto"
    report_to: tuple[str, ...] = ()
    checkpoint_every: int | None = None
    checkpoint_limit: int = 1
    memory_limit_gib: float | None = None
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("device", self.device, get_args(Device))
        one_of("dtype", self.dtype, get_args(Dtype))
        one_of("loss_average", self.loss_average, get_args(LossAverage))
        for key in ("log_every", "checkpoint_every", "checkpoint_limit", "memory_limit_gib"):
            value = getattr(self, key)
            need(value is None or value > 0, key, value, "must be positive")
        for name in self.report_to:
            one_of("report_to", name, tuple(REPORTERS))
            there = find_spec(REPORTERS[name]) is not None
            need(there, "report_to", name, f"is not installed; pip install {REPORTERS[name]}, or take it off the list")
        need(0 <= self.seed < 2**32, "seed", self.seed, "must be at least 0 and under 2**32")
        names = [stage.name for stage in self.stages]
        known = (["pretrain"], ["finetune"], ["pretrain", "finetune"])
        need(names in known, "stages", names, "must be pretrain, finetune or both, in this order")
        there = self.projector is None or self.projector.is_file()
        need(there, "projector", self.projector, "is no file; give .bin, .pt or .safetensors with a projector")
        try:
            model_type(self.base_model)
        except ArchitectureError as error:
            raise PlanError(f"base_model: {error}") from error


def parse_plan(values: Mapping[str, Any]) -> Plan:
    """Build a plan from plain values.

    Raises:
        PlanError: unknown or missing key, wrong type, value out of range.
    """
    if not isinstance(values, Mapping):
        raise PlanError(f"a plan is an object of keys and values, not {type(values).__name__}")
    stages = values.get("stages")
    if not isinstance(stages, list):
        raise PlanError("stages must be a list of stages")
    extensions = values.get("extensions") or []
    need(isinstance(extensions, list | tuple), "extensions", extensions, "must be a list of Python files")
    try:
        load_extensions(map(str, extensions))
    except RegistryError as error:
        raise PlanError(str(error)) from error
    return build(Plan, {**values, "stages": tuple(build(StagePlan, stage) for stage in stages)})


def read_plan(path: Path) -> Plan:
    """Read a plan from a ``.yaml``, ``.yml`` or ``.json`` file.

    Raises:
        PlanError: no such file, not strict YAML or JSON (see ``toolkit.settings_files``), or a fault in the plan; the
            message names the file.
    """
    try:
        return parse_plan(read_settings_file(path))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from error
    except (SettingsFileError, PlanError) as error:
        raise PlanError(f"{path}: {error}") from error


def to_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan), default=str))
    return values
