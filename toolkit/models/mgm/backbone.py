"""Gemma's decoder with MGM's own modules beside it, under their public names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GemmaModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.mining import UniProjector
from toolkit.models.mgm.towers import ClipTower, ConvNextTower


class TorchInitMixin:
    """Lets marked modules start as torch starts them, as in MGM; Gemma's own rule is for Gemma's modules."""

    def _init_weights(self, module: nn.Module) -> None:
        if not getattr(module, "_keeps_torch_init", False):
            super()._init_weights(module)  # type: ignore[misc]
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()


class MGMGemmaModel(TorchInitMixin, GemmaModel):
    """Gemma's decoder with the towers, the mining projections and the projector beside it.

    All embeddings that go in, of words and of images, are multiplied by √h, as they were in the published training;
    transformers' own Gemma multiplies those of words only, where it looks them up.
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
        for part in (self.vision_tower_aux, *self.trained_in_stage_1()):
            for module in part.modules():
                module.__dict__["_keeps_torch_init"] = True
        self.post_init()

    def scaled(self, embeds: Tensor) -> Tensor:
        """Embeddings times √h, which is rounded to their type."""
        return embeds * torch.tensor(self.config.hidden_size**0.5, dtype=embeds.dtype)

    def forward(
        self, input_ids: Tensor | None = None, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """As ``GemmaModel.forward``, of ids (B, T) or of embeddings (B, T, h) that are not yet multiplied by √h."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        return super().forward(inputs_embeds=self.scaled(inputs_embeds), **kwargs)

    def trained_in_stage_1(self) -> list[nn.Module]:
        """Projector and the three mining projections."""
        return [
            self.mm_projector, self.vlm_uni_query_projector, self.vlm_uni_aux_projector, self.vlm_uni_val_projector,
        ]  # fmt: skip
