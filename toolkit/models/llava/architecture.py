"""LLaVA as an architecture: what it trains, its loss, its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, LlavaForConditionalGeneration, PreTrainedModel

from toolkit.data.conversation import IGNORE_INDEX
from toolkit.data.protocols import Processor
from toolkit.models.answering.generic import GenericAnswerer
from toolkit.models.base import Answerer, Architecture, Speed, load_auto_processor
from toolkit.models.llava.processing import LlavaRows

_ORIGINAL = {"0": "linear_1", "2": "linear_2"}
"""Layers of the original code's projector by transformers' names."""
_PROJECTOR_NAME = re.compile(r"^(?:module\.|model\.)*(?:mm_projector\.([02])|multi_modal_projector\.(\w+))\.(\w+)$")


class LlavaArchitecture(Architecture):
    """``LlavaForConditionalGeneration``: any vision tower with a CLIP-like interface, an MLP, any language model."""

    projector = ("model.multi_modal_projector.",)
    towers = ("model.vision_tower.",)

    def load_processor(self, folder: Path) -> Processor:
        return LlavaRows.of(load_auto_processor(folder), AutoConfig.from_pretrained(folder))

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        targets, weights = inputs.pop("targets"), inputs.pop("loss_weights")
        has_images = inputs.pop("image_count") > 0
        if not has_images:
            del inputs["pixel_values"]  # one black image that no row has
        logits = model(**inputs, use_cache=False).logits
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        ).view_as(targets)
        loss = (losses * weights.unsqueeze(1)).sum()
        if not has_images:
            # Gradient 0: data parallelism waits for each trained parameter's gradient in every process.
            names = [name.strip(".") for name in self.projector]
            parts = [p for n, p in model.named_parameters() if p.requires_grad and any(name in n for name in names)]
            loss = loss + sum(part.float().sum() for part in parts) * 0
        return loss

    def answerer(self, model: PreTrainedModel, processor: Processor, **options: Any) -> Answerer:
        del options["cache"], options["compiled"]  # neither is supported
        return GenericAnswerer(model=model, processor=cast(LlavaRows, processor), **options)

    def set_speed(self, model: PreTrainedModel, choice: Speed, device: torch.device | str) -> None:
        """``{checkpointing: true}``, as in ``reference``, computes activations again in the backward pass."""
        if choice in ("auto", "reference"):
            checkpointing = choice == "reference"
        elif isinstance(choice, str) or set(choice) - {"checkpointing"}:
            raise ValueError(f"speed {choice!r} is unknown; use 'auto', 'reference' or the switch checkpointing")
        else:
            checkpointing = bool(choice["checkpointing"])
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()

    def projector_hidden(self, model: PreTrainedModel, images: dict[str, Any]) -> tuple[Tensor, nn.Linear]:
        inner = cast(LlavaForConditionalGeneration, model).model
        projector = inner.multi_modal_projector
        hidden: list[Tensor] = []
        handle = projector.act.register_forward_hook(lambda module, inputs, output: hidden.append(output))
        try:
            inner.get_image_features(**images)
        finally:
            handle.remove()
        return hidden[0], projector.linear_2

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Also for the names of LLaVA's original ``mm_projector.bin``."""
        renamed = {}
        for name, tensor in tensors.items():
            match = _PROJECTOR_NAME.match(name)
            plain = f"{match[2] or _ORIGINAL[match[1]]}.{match[3]}" if match else name
            renamed[f"{self.projector[0]}{plain}" if match else name] = tensor
        return renamed
