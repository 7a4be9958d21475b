"""Registration of MGM as an architecture: Auto classes, trained parameters, feature cache, fast generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, set_seed

from toolkit.data.protocols import FeatureCache, Processor
from toolkit.images.aspect import Aspect
from toolkit.models.base import Answerer, Architecture, Speed, load_auto_processor
from toolkit.models.mgm.answering.answerer import Answerer as FastAnswerer
from toolkit.models.mgm.common.names import PROJECTOR, TOWERS
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.vision.feature_cache import FeatureCache as TowerFeatureCache
from toolkit.models.mgm.vision.towers import TowerFeatures
from toolkit.models.mgm.weights import load_projector, public_names

AutoModelForImageTextToText.register(MGMConfig, MGMGemmaForCausalLM)
AutoProcessor.register(MGMConfig, MGMProcessor)


class MGMArchitecture(Architecture):
    """MGM on Gemma, with optimized decoder, mining and generation; see ``toolkit.models.mgm.common.speed``."""

    projector = PROJECTOR
    towers = TOWERS
    caches_features = True
    autocast = False  # the model itself computes in the dtype of its frozen towers

    def load_processor(self, folder: Path) -> Processor:
        processor: Processor = load_auto_processor(folder)
        return processor

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = model(**inputs).loss
        return loss

    def answerer(self, model: PreTrainedModel, processor: Processor, **options: Any) -> Answerer:
        mgm = _mgm(model)
        mgm.set_speed({"compiled": options.pop("compiled")})
        return FastAnswerer(model=mgm, processor=cast(MGMProcessor, processor), **options)

    def set_speed(self, model: PreTrainedModel, choice: Speed, device: torch.device | str) -> None:
        _mgm(model).set_speed(choice, device)

    def vocabulary(self, model: PreTrainedModel) -> int:
        return int(model.config.vocab_size)

    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        return {"aux_drop_path": model.config.aux_drop_path}

    def start_projector(self, model: nn.Module, seed: int) -> None:
        # Do not change this order: published results depend on the resulting weights.
        set_seed(seed)
        for part in cast(MGMGemmaForCausalLM, model).model.projector_modules():
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    module.reset_parameters()

    def projector_hidden(self, model: PreTrainedModel, images: dict[str, Any]) -> tuple[Tensor, nn.Linear]:
        mgm = _mgm(model)
        if "features" in images:
            low, *maps = images["features"]
            features = TowerFeatures(low, tuple(maps))
        else:
            features = mgm.encode_images(**images)
        first, activation, last = mgm.model.mm_projector
        return activation(first(mgm.mine_images(features))), cast(nn.Linear, last)

    def own_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return public_names(tensors)

    def load_projector(self, model: nn.Module, path: Path) -> None:
        load_projector(model, path)

    def feature_cache(
        self, root: Path, model: PreTrainedModel, processor: Processor, aspect: Aspect
    ) -> FeatureCache | None:
        return TowerFeatureCache(root, _mgm(model), cast(MGMProcessor, processor), aspect)


def _mgm(model: PreTrainedModel) -> MGMGemmaForCausalLM:
    return cast(MGMGemmaForCausalLM, model)
