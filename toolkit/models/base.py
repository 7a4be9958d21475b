"""What differs between architectures, asked for by the trainer, the evaluation and the data code.

::

    config.json's model_type ─► ARCHITECTURES ─► Architecture ─► model, Processor (toolkit.data.protocols)
    Processor.text_inputs, pixel_inputs ─► Architecture.loss

To add one: subclass :class:`Architecture` and register the class under its ``model_type`` (docs/extending.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, set_seed

from toolkit.data.protocols import FeatureCache, Processor
from toolkit.images.aspect import Aspect
from toolkit.models.weights import copy_projector, read_tensors
from toolkit.questions.prompts import Answer, Prompt

Speed = str | Mapping[str, bool]
"""``auto``, ``reference``, or switches of the architecture on top of ``auto``."""


class Answerer(Protocol):
    """Answers prompts, all of them or none; ``on_batch`` is called with the number that is done."""

    @property
    def model(self) -> PreTrainedModel:
        """On its device, in evaluation mode."""

    def __call__(self, prompts: Sequence[Prompt], on_batch: Callable[[int], None]) -> list[Answer]: ...


class Architecture(ABC):
    """One architecture, without state: the same instance serves all models of its type."""

    projector: tuple[str, ...]
    """Prefixes of the parameters that ``pretrain`` trains."""
    towers: tuple[str, ...]
    """Prefixes of the parameters that stay frozen in both phases; ``finetune`` trains all others."""
    caches_features: bool = False
    """Whether a plan's ``cache_dir`` keeps the frozen towers' features on disk; without, they run in every step."""
    autocast: bool = True
    """Whether the trainer lets torch round float32 weights in bfloat16 trainings; False where the model does it."""

    @abstractmethod
    def load_processor(self, folder: Path) -> Processor:
        """The processor of a checkpoint folder."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The sum over labelled tokens of the row's weight × cross-entropy.

        Args:
            model: maybe wrapped for several processes; it has to be called, not its parts.
            inputs: of ``Processor.text_inputs`` and ``pixel_inputs`` (or ``features``) and ``loss_weights`` (B,).
        """

    @abstractmethod
    def answerer(self, model: PreTrainedModel, processor: Processor, **options: Any) -> Answerer:
        """What answers prompts (``toolkit.questions.prompts``) with a model in evaluation mode on its device.

        Args:
            options: batch_size, max_new_tokens, cache, workers; ``compiled``, where the architecture compiles answers.
        """

    def load_model(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
        """The model of a checkpoint folder on the CPU."""
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
        return model

    def set_speed(self, model: PreTrainedModel, choice: Speed, device: torch.device | str) -> None:
        """Choose how forward passes are computed on a device.

        Raises:
            ValueError: an unknown choice or switch.
        """
        if choice not in ("auto", "reference"):
            raise ValueError(f"speed {choice!r} is unknown; use 'auto' or 'reference'")

    def vocabulary(self, model: PreTrainedModel) -> int:
        """Number of tokens that the model chooses from."""
        return int(model.config.get_text_config().vocab_size)

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Settings of the model that ``results.json`` names beside its type."""
        return {}

    def start_projector(self, model: nn.Module, seed: int) -> None:
        """Give the projector fresh weights, as torch starts them, that depend on the seed alone."""
        set_seed(seed)
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if f"{name}.".startswith(self.projector) and callable(reset):
                reset()

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a public file to the model's names; by default names are unchanged."""
        return tensors

    def load_projector(self, model: nn.Module, path: Path) -> None:
        """Give the model the projector of a file.

        Raises:
            ValueError: unreadable, incomplete, or of other shapes; names the file and the first tensor.
        """
        copy_projector(model, self.own_names(read_tensors(path)), prefixes=self.projector, where=str(path))

    def feature_cache(
        self, root: Path, model: PreTrainedModel, processor: Processor, aspect: Aspect
    ) -> FeatureCache | None:
        """A cache of the towers' features under ``root``; None where the architecture keeps none."""
        return None


def load_auto_processor(folder: Path) -> Any:
    """What ``AutoProcessor`` makes of a checkpoint folder."""
    return cast(Any, AutoProcessor).from_pretrained(folder)
