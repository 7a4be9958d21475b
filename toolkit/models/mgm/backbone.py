"""Gemma's decoder with MGM's additional modules, under their public parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GemmaModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.vision.mining import UniProjector
from toolkit.models.mgm.vision.towers import ClipTower, ConvNextTower


class TorchInitMixin:
    """Keeps torch's default initialization for marked modules, as in MGM; Gemma's rule applies to all others."""

    def _init_weights(self, module: nn.Module) -> None:
        if not getattr(module, "_keeps_torch_init", False):
            super()._init_weights(module)  # type: ignore[misc]
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()


class MGMGemmaModel(TorchInitMixin, GemmaModel):
    """Gemma's decoder together with the towers, the mining projections and the projector.

    The model multiplies all input embeddings by √h, those of words and those of images, as in the published training.
    The Gemma of transformers multiplies only word embeddings, when it looks them up.
    """

    config_class = MGMConfig

    def __init__(self, config: MGMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)  # type: ignore[assignment]
        d, h = config.mm_hidden_size, config.hidden_size
        aux = config.vision_aux_config
        self.vision_tower = ClipTower(config.vision_config, config.mm_vision_select_layer)
        self.vision_tower_aux = ConvNextTower(
            depths=aux["depths"], dims=aux["dims"], drop_path_rate=aux["drop_path_rate"],
            layer_scale_init=aux["layer_scale_init"], drop_path=config.aux_drop_path,
        )  # fmt: skip
        self.vlm_uni_query_projector = UniProjector(d, d)
        self.vlm_uni_aux_projector = UniProjector(config.mm_hidden_size_aux, d)
        self.vlm_uni_val_projector = UniProjector(config.mm_hidden_size_aux, d)
        self.mm_projector = nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, h))
        for part in (self.vision_tower_aux, *self.projector_modules()):
            for module in part.modules():
                module.__dict__["_keeps_torch_init"] = True
        self.post_init()

    def scaled(self, embeds: Tensor) -> Tensor:
        """Return the embeddings multiplied by √h, where √h is rounded to their dtype."""
        return embeds * torch.tensor(self.config.hidden_size**0.5, dtype=embeds.dtype)

    def forward(
        self, input_ids: Tensor | None = None, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """Run ``GemmaModel.forward`` on ids (B, T), or on embeddings (B, T, h) not yet multiplied by √h."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        return super().forward(inputs_embeds=self.scaled(inputs_embeds), **kwargs)

    def projector_modules(self) -> list[nn.Module]:
        """The projector and the three mining projections."""
        return [
            self.mm_projector, self.vlm_uni_query_projector, self.vlm_uni_aux_projector, self.vlm_uni_val_projector,
        ]  # fmt: skip
