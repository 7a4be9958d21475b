"""Gemma's decoder with MGM's own modules beside it, under their public names."""

from __future__ import annotations

from torch import nn
from transformers import GemmaModel

from toolkit.mgm.configuration_mgm import MGMConfig
from toolkit.mgm.mining import UniProjector
from toolkit.mgm.towers import ClipTower, ConvNextTower


class TorchInitMixin:
    """Lets marked modules start as torch starts them, as in MGM; Gemma's own rule is for Gemma's modules."""

    def _init_weights(self, module: nn.Module) -> None:
        if not getattr(module, "_keeps_torch_init", False):
            super()._init_weights(module)  # type: ignore[misc]
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()


class MGMGemmaModel(TorchInitMixin, GemmaModel):
    """Gemma's decoder with the towers, the mining projections and the projector beside it."""

    config_class = MGMConfig

    def __init__(self, config: MGMConfig) -> None:
        super().__init__(config)
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

    def trained_in_stage_1(self) -> list[nn.Module]:
        """Projector and the three mining projections."""
        return [
            self.mm_projector, self.vlm_uni_query_projector, self.vlm_uni_aux_projector, self.vlm_uni_val_projector,
        ]  # fmt: skip
