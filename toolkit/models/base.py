"""Interface of an architecture, used by the trainer, the evaluation and the data code.

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
    """Whether a plan's ``cache_dir`` stores the frozen towers' features; otherwise the towers run in every step."""
    autocast: bool = True
    """Whether torch autocast casts float32 weights in a bfloat16 training; False if the model casts them."""

    @abstractmethod
    def load_processor(self, folder: Path) -> Processor:
        """Load the processor of a checkpoint folder."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the sum over labelled tokens of the row's weight × cross-entropy.

        Args:
            model: may be wrapped for several processes, so call it and not its submodules.
            inputs: of ``Processor.text_inputs`` and ``pixel_inputs`` (or ``features``) and ``loss_weights`` (B,).
        """

    @abstractmethod
    def answerer(self, model: PreTrainedModel, processor: Processor, **options: Any) -> Answerer:
        """Create the answerer of prompts (``toolkit.questions.prompts``) for a model in evaluation mode on its device.

        Args:
            options: batch_size, max_new_tokens, cache, workers; ``compiled``, if the architecture compiles answers.
        """

    def load_model(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model of a checkpoint folder on the CPU."""
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
        """Return the vocabulary size."""
        return int(model.config.get_text_config().vocab_size)

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return settings of the model to record in ``results.json``."""
        return {}

    def start_projector(self, model: nn.Module, seed: int) -> None:
        """Reinitialize the projector with torch's defaults; the weights depend on the seed only."""
        set_seed(seed)
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if f"{name}.".startswith(self.projector) and callable(reset):
                reset()

    def projector_hidden(self, model: PreTrainedModel, images: dict[str, Any]) -> tuple[Tensor, nn.Linear]:
        """Return the projector's hidden units (I, N, m) of images before its last layer, and that layer (h, m).

        A plan with ``projector_start: regression`` requires it.

        Args:
            images: of ``Processor.pixel_inputs``, or ``features`` of the cache.

        Raises:
            NotImplementedError: the architecture does not say which layer that is.
        """
        raise NotImplementedError(f"{type(self).__name__}.projector_hidden")

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a public file to the model's names; by default names are unchanged."""
        return tensors

    def load_projector(self, model: nn.Module, path: Path) -> None:
        """Load the projector of a file into the model.

        Raises:
            ValueError: unreadable, incomplete, or of other shapes; names the file and the first tensor.
        """
        copy_projector(model, self.own_names(read_tensors(path)), prefixes=self.projector, where=str(path))

    def feature_cache(
        self, root: Path, model: PreTrainedModel, processor: Processor, aspect: Aspect
    ) -> FeatureCache | None:
        """Return a cache of the towers' features under ``root``; None if the architecture has none."""
        return None


def load_auto_processor(folder: Path) -> Any:
    """Load a checkpoint folder's processor with ``AutoProcessor``."""
    return cast(Any, AutoProcessor).from_pretrained(folder)
