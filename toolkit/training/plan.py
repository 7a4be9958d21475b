"""Training plan, validated before weights are loaded. In: a YAML or JSON file. Out: a frozen :class:`TrainingPlan`.

::

    base_model: weights/mgm           # complete checkpoint: model, tokenizer, preprocessing
    extensions: []                    # Python files that register architectures (docs/extending.md)
    projector: null                   # projector to start from, e.g. the kit's mm_projector.bin; null: base_model's
    output_dir: runs/seed-0           # empty, or used by the same plan before
    seed: 0
    device: auto                      # auto | cpu | cuda
    dtype: float32                    # float32 | bfloat16 (trained weights keep float32 masters)
    speed: auto                       # auto | reference (as the original computes) | {compiled: false}, see the
                                      # architecture, e.g. toolkit.models.mgm.common.speed
    cache_dir: cache/features         # null, or an architecture without a feature cache: the towers run in every step
    loss_average: micro_batch         # micro_batch as in the kit (loss_group rows) | token
    log_every: 10
    report_to: []                     # tensorboard, wandb, mlflow
    checkpoint_every: 100             # steps; null: a killed phase restarts from its first step
    checkpoint_limit: 1               # number of checkpoints to keep
    memory_limit_gib: null            # memory limit per GPU
    stages:
      - {name: pretrain, data: pretrain.json, images: images, trained: projector, image_aspect: square,
         global_batch: 256, per_device_batch: 8, learning_rate: 1.0e-3}
      - {name: finetune, data: finetune.json, images: images, trained: projector+llm, image_aspect: pad,
         global_batch: 128, per_device_batch: 8, learning_rate: 2.0e-5, group_by_modality_length: true}

Paths are relative to the working directory. All other keys and their defaults are in ``toolkit.training.settings``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from toolkit.images.aspect import Aspect
from toolkit.models import model_type
from toolkit.registry import load_extensions
from toolkit.settings import NotInKey
from toolkit.settings_files import SettingsFileError, read_settings_file
from toolkit.training.settings import ROUNDS, SAME_WEIGHTS, PhaseSettings, PlanError, RandomSeed, TrainingSettings

__all__ = [
    "DivergedLossError", "LossError", "NonFiniteLossError", "PhasePlan", "PlanError", "TrainingPlan", "parse_plan",
    "read_plan", "to_values",
]  # fmt: skip

PhaseName = Literal["pretrain", "finetune"]
Trained = Literal["projector", "projector+llm"]
PHASES = get_args(PhaseName)
BY_CONTENT = NotInKey("the content of its files is in the identity")
ELSEWHERE = NotInKey("an output location")


class LossError(RuntimeError):
    """A loss with which training cannot continue; the message names the step and the samples of its batch."""


class NonFiniteLossError(LossError):
    """The loss, or a trained weight, became NaN or infinite."""


class DivergedLossError(LossError):
    """The loss diverged; see :mod:`toolkit.training.divergence`."""


class PhasePlan(PhaseSettings):
    """One phase: hyperparameters, data, and the part of the model to train."""

    name: PhaseName
    data: Annotated[Path, BY_CONTENT]
    """LLaVA JSON file."""
    images: Annotated[Path, BY_CONTENT]
    """Folder to which image paths are relative."""
    trained: Trained
    image_aspect: Aspect
    group_by_modality_length: bool = False
    """Group rows of similar length into batches; rows with and without an image do not share a batch."""
    fresh_projector: bool | None = None
    """Whether to reinitialize the projector; None does so in ``pretrain`` only, unless the plan has a projector."""

    @field_validator("data")
    @classmethod
    def _data_is_a_file(cls, path: Path) -> Path:
        return _checked(path, path.is_file(), "is not a file; give a LLaVA JSON file")

    @field_validator("images")
    @classmethod
    def _images_is_a_folder(cls, path: Path) -> Path:
        return _checked(path, path.is_dir(), "is not a folder; give the folder to which image paths are relative")

    @field_validator("deepspeed")
    @classmethod
    def _deepspeed_is_a_file(cls, path: str | None) -> str | None:
        return _checked(path, path is None or Path(path).is_file(), "is not a file; give a DeepSpeed JSON file")

    def accumulation_for(self, processes: int) -> int:
        """Return the number of micro-batches per step.

        Raises:
            PlanError: the product of batch, accumulation and processes is not ``global_batch``. The kit's check ignores
                this, but such a model would be trained with a different global batch than its plan states.
        """
        at_once = self.per_device_batch * processes
        steps = self.accumulation or max(1, self.global_batch // at_once)
        if at_once * steps != self.global_batch:
            raise PlanError(
                f"phase {self.name}: global_batch {self.global_batch} is not per_device_batch {self.per_device_batch} "
                f"× {processes} processes × accumulation {steps}; change per_device_batch or accumulation"
            )
        return steps


class TrainingPlan(TrainingSettings):
    """A complete training; the module's docstring shows an example file."""

    extensions: Annotated[tuple[Path, ...], NotInKey("the fingerprint of the code in use is in the identity")] = ()
    """Python files that register architectures (toolkit/registry.py). They are imported while the plan is read, before
    the base model is checked."""
    base_model: Annotated[Path, BY_CONTENT]
    output_dir: Annotated[Path, ELSEWHERE]
    seed: RandomSeed
    stages: tuple[PhasePlan, ...]
    """The phases in training order."""
    projector: Annotated[Path | None, BY_CONTENT] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], ROUNDS] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    cache_dir: Annotated[Path | None, NotInKey("the identity states whether features are cached, not where")] = None
    memory_limit_gib: Annotated[float | None, SAME_WEIGHTS] = Field(default=None, gt=0)

    @field_validator("extensions")
    @classmethod
    def _are_loaded(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        load_extensions(files)
        return files

    @field_validator("base_model")
    @classmethod
    def _base_model_is_a_checkpoint(cls, path: Path) -> Path:
        model_type(path)
        return path

    @field_validator("projector")
    @classmethod
    def _projector_is_a_file(cls, path: Path | None) -> Path | None:
        return _checked(
            path, path is None or path.is_file(), "is not a file; give a .bin, .pt or .safetensors file of a projector"
        )

    @field_validator("report_to")
    @classmethod
    def _reporters_are_installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        missing = [name for name in names if find_spec(name) is None]
        message = f"{', '.join(missing)} is not installed; pip install {' '.join(missing)}, or remove it from the list"
        return _checked(names, not missing, message)

    @field_validator("stages")
    @classmethod
    def _known_order(cls, phases: tuple[PhasePlan, ...]) -> tuple[PhasePlan, ...]:
        known = ([PHASES[0]], [PHASES[1]], [*PHASES])
        names = [phase.name for phase in phases]
        return _checked(phases, names in known, "must be pretrain, finetune or both, in this order")


def _checked(value: Any, holds: bool, fix: str) -> Any:
    if not holds:
        raise ValueError(fix)
    return value


def parse_plan(values: object) -> TrainingPlan:
    """Build a plan from plain values.

    Raises:
        PlanError: unknown or missing key, wrong type, value out of range.
    """
    return TrainingPlan.parse(values)


def read_plan(path: Path) -> TrainingPlan:
    """Read a plan from a ``.yaml``, ``.yml`` or ``.json`` file.

    Raises:
        PlanError: the file does not exist, is not strict YAML or JSON (see ``toolkit.settings_files``), or contains an
            invalid plan; the message names the file.
    """
    try:
        return TrainingPlan.parse(read_settings_file(path), where=str(path))
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from error
    except SettingsFileError as error:
        raise PlanError(f"{path}: {error}") from error


def to_values(plan: TrainingPlan) -> dict[str, Any]:
    """Return the plan as plain JSON values."""
    return plan.model_dump(mode="json")
