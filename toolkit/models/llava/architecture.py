"""LLaVA as an architecture: what it trains, its loss, its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig

from toolkit.models.base import Answerer, Architecture, Processor, Speed, load_auto_processor
from toolkit.models.conversation import IGNORE_INDEX
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
        shown = inputs.pop("pictures") > 0
        if not shown:
            del inputs["pixel_values"]  # one black picture that no row has
        logits = model(**inputs, use_cache=False).logits
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        ).view_as(targets)
        loss = (losses * weights.unsqueeze(1)).sum()
        if not shown:
            # Gradient 0: data parallelism waits for each trained parameter's gradient in every process.
            names = [name.strip(".") for name in self.projector]
            parts = [p for n, p in model.named_parameters() if p.requires_grad and any(name in n for name in names)]
            loss = loss + sum(part.float().sum() for part in parts) * 0
        return loss

    def answerer(self, model: Any, processor: Any, **options: Any) -> Answerer:
        from toolkit.evaluation.generic import GenericAnswerer

        del options["cache"], options["compiled"]  # neither is supported
        return GenericAnswerer(model=model, processor=processor, **options)

    def set_speed(self, model: Any, choice: Speed, device: torch.device | str) -> None:
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

    def load_projector(self, model: nn.Module, path: Path) -> None:
        """Also by the names of LLaVA's original ``mm_projector.bin``."""
        from toolkit.models.convert_weights import copy_projector, read_tensors

        found = {}
        for name, tensor in read_tensors(path).items():
            match = _PROJECTOR_NAME.match(name)
            plain = f"{match[2] or _ORIGINAL[match[1]]}.{match[3]}" if match else name
            found[f"{self.projector[0]}{plain}" if match else name] = tensor
        copy_projector(model, found, prefixes=self.projector, where=str(path))
