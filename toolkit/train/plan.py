"""What to train, checked before anything heavy is loaded. In: a YAML or JSON file. Out: a frozen :class:`Plan`.

::

    base_model: weights/mgm           # complete MGM checkpoint: model, tokenizer, preprocessing
    output_dir: runs/seed-0           # empty, or left by the same plan
    seed: 0
    device: auto                      # auto | cpu | cuda
    dtype: float32                    # float32 | bfloat16 (autocast)
    cache_dir: cache/features         # null: towers run in every step
    loss_average: micro_batch         # micro_batch as in the kit | token
    log_every: 10
    stages:
      - {name: pretrain, data: pretrain.json, images: images, trained: projector, image_aspect: square,
         global_batch: 256, per_device_batch: 8, learning_rate: 1.0e-3}
      - {name: finetune, data: finetune.json, images: images, trained: projector+llm, image_aspect: pad,
         global_batch: 128, per_device_batch: 8, learning_rate: 2.0e-5, group_by_modality_length: true}

Paths are taken relative to the working folder. Defaults of the rest are the kit's.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from toolkit.mgm.aspect import ASPECTS, Aspect

StageName = Literal["pretrain", "finetune"]
Trained = Literal["projector", "projector+llm"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
LossAverage = Literal["micro_batch", "token"]


class PlanError(ValueError):
    """A plan that cannot be run; names the key, its value and the fix."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; names the step and the samples of its batch."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage.

    ``max_steps``: None is one epoch, rounded down to whole steps. ``accumulation``: None follows from the batches and
    the number of processes; given, it is checked. ``max_grad_norm``: None clips nothing, as in the kit.
    ``fresh_projector``: None starts the projector anew in ``pretrain`` only. ``deepspeed``: path of a DeepSpeed JSON.
    ``workers``: loader processes.
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
    workers: int = 0

    def __post_init__(self) -> None:
        _one_of("name", self.name, get_args(StageName))
        _one_of("trained", self.trained, get_args(Trained))
        _one_of("image_aspect", self.image_aspect, ASPECTS)
        for key in ("global_batch", "per_device_batch", "learning_rate"):
            _need(getattr(self, key) > 0, key, getattr(self, key), "must be positive")
        for key in ("accumulation", "max_steps", "max_grad_norm"):
            value = getattr(self, key)
            _need(value is None or value > 0, key, value, "must be positive or null")
        _need(0 <= self.warmup_ratio < 1, "warmup_ratio", self.warmup_ratio, "must be at least 0 and under 1")
        _need(self.data.is_file(), "data", self.data, "is no file; give a LLaVA JSON file")
        _need(self.images.is_dir(), "images", self.images, "is no folder; give the folder that image paths start from")
        if self.deepspeed is not None:
            _need(Path(self.deepspeed).is_file(), "deepspeed", self.deepspeed, "is no file; give a DeepSpeed JSON")

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
    device: Device = "auto"
    dtype: Dtype = "float32"
    cache_dir: Path | None = None
    loss_average: LossAverage = "micro_batch"
    log_every: int = 10

    def __post_init__(self) -> None:
        _one_of("device", self.device, get_args(Device))
        _one_of("dtype", self.dtype, get_args(Dtype))
        _one_of("loss_average", self.loss_average, get_args(LossAverage))
        _need(self.log_every > 0, "log_every", self.log_every, "must be positive")
        _need(0 <= self.seed < 2**32, "seed", self.seed, "must be at least 0 and under 2**32")
        names = [stage.name for stage in self.stages]
        known = (["pretrain"], ["finetune"], ["pretrain", "finetune"])
        _need(names in known, "stages", names, "must be pretrain, finetune or both, in this order")
        base = self.base_model
        _need((base / "config.json").is_file(), "base_model", base, "holds no config.json; give an MGM checkpoint")


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
    return _build(Plan, {**values, "stages": tuple(_build(StagePlan, stage) for stage in stages)})


def read_plan(path: Path) -> Plan:
    """Read a plan from a ``.yaml``, ``.yml`` or ``.json`` file (JSON is YAML).

    Raises:
        PlanError: no such file, no YAML, or a fault in the plan; the message names the file.
    """
    try:
        return parse_plan(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, PlanError) as error:
        raise PlanError(f"{path}: {error}") from error


def to_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(plan), default=str))
    return values


def _build(kind: Any, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise PlanError(f"{kind.__name__} needs keys and values, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            raise PlanError(f"unknown key {key!r}; {'did you mean ' + repr(near[0]) if near else 'remove it'}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise PlanError(f"{kind.__name__}: key {name!r} is missing")
    return kind(**{name: _coerce(name, str(fields[name].type), value) for name, value in values.items()})


def _coerce(name: str, kind: str, value: Any) -> Any:
    """Turn JSON's values into what the field wants: paths from strings, floats from integers (and YAML's 1e-3)."""
    if value is None:
        _need("None" in kind, name, value, "must not be null")
        return None
    wanted = kind.split(" | ")[0]
    try:
        if wanted == "Path":
            return Path(value)
        if wanted == "float":
            return float(value)
        if wanted == "int":
            _need(isinstance(value, int) and not isinstance(value, bool), name, value, "must be a whole number")
        if wanted == "bool":
            _need(isinstance(value, bool), name, value, "must be true or false")
    except (TypeError, ValueError) as error:
        raise PlanError(f"{name}: {value!r} cannot be used ({error})") from error
    return value


def _one_of(key: str, value: object, known: tuple[str, ...]) -> None:
    _need(value in known, key, value, f"is unknown; use one of {', '.join(known)}")


def _need(holds: bool, key: str, value: object, fix: str) -> None:
    if not holds:
        raise PlanError(f"{key}: {str(value)!r} {fix}")
