"""MGM: a Gemma that reads images through CLIP, ConvNeXt, patch-info mining and a projector.

::

    images (I,3,s,s)      ─► CLIP      ─► low  (I,N,d) ──────────────┬─► + ─► projector ─► (I,N,h) ─┐
    images_aux (I,3,S,S)  ─► ConvNeXt  ─► 4 maps ─► mining windows ──┘                              ▼
    input_ids (B,T), one placeholder per image  ─► word embeddings (B,T,h) ─► merge ─► Gemma ─► logits or loss

Parameter names are those of the public MGM-2B weights. ``encode_images`` (frozen, cacheable) and ``project_images``
(trained) are apart, so that a caller can store the first's result and skip both towers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GemmaForCausalLM, GemmaModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.gemma.modeling_gemma import GemmaPreTrainedModel

from toolkit.mgm.configuration_mgm import IGNORE_INDEX, IMAGE_TOKEN_INDEX, MGMConfig
from toolkit.mgm.merging import Merged, check_image_count, merge
from toolkit.mgm.mining import UniProjector, cut, mine
from toolkit.mgm.towers import ClipTower, ConvNextTower, TowerFeatures

TRAINED_IN_STAGE_1 = (
    "model.mm_projector.",
    "model.vlm_uni_query_projector.",
    "model.vlm_uni_aux_projector.",
    "model.vlm_uni_val_projector.",
)
TOWERS = ("model.vision_tower.", "model.vision_tower_aux.")


class _TorchInitMixin:
    """Lets marked modules start as torch starts them, as in MGM; Gemma's own rule is for Gemma's modules."""

    def _init_weights(self, module: nn.Module) -> None:
        if not getattr(module, "_keeps_torch_init", False):
            super()._init_weights(module)  # type: ignore[misc]
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
            module.reset_parameters()


class MGMGemmaModel(_TorchInitMixin, GemmaModel):
    """Gemma's decoder with the towers, the mining projections and the projector beside it."""

    config_class = MGMConfig

    def __init__(self, config: MGMConfig) -> None:
        super().__init__(config)
        d, h = config.mm_hidden_size, config.hidden_size
        aux = config.vision_aux_config
        self.vision_tower = ClipTower(config.vision_config, config.mm_vision_select_layer)
        self.vision_tower_aux = ConvNextTower(
            depths=aux["depths"], dims=aux["dims"], drop_path_rate=aux["drop_path_rate"],
            layer_scale_init=aux["layer_scale_init"], drop_path_in_training=config.aux_drop_path_in_training,
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


class MGMGemmaForCausalLM(_TorchInitMixin, GemmaForCausalLM):  # type: ignore[misc]
    """MGM with its language-model head (tied to the word embeddings).

    Keyword arguments of :meth:`forward` and :meth:`generate` beside Gemma's: either ``images`` (I, 3, s, s) and
    ``images_aux`` (I, 3, S, S), normalised floats, or ``features``, a :class:`TowerFeatures` of the same images
    (or its five tensors as a plain sequence).
    """

    config_class = MGMConfig

    def __init__(self, config: MGMConfig) -> None:
        # Past GemmaForCausalLM's own constructor, which would build a second, plain Gemma first.
        GemmaPreTrainedModel.__init__(self, config)
        self.model = MGMGemmaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def encode_images(self, images: Tensor, images_aux: Tensor) -> TowerFeatures:
        """Run both frozen towers: (I, 3, s, s) and (I, 3, S, S) -> :class:`TowerFeatures`, without gradient."""
        with torch.no_grad():
            return TowerFeatures(self.model.vision_tower(images), self.model.vision_tower_aux(images_aux))

    def project_images(self, features: TowerFeatures) -> Tensor:
        """Mine the high-resolution maps and project: -> (I, N, h) image embeddings. The trained part of stage 1."""
        core = self.model
        low = features.low
        if self.config.mm_feature_norm:
            low = F.layer_norm(low, low.shape[-1:])
        windows = cut(features.maps, self.config.tokens_per_side, core.vlm_uni_aux_projector.norm.eps)
        mined = mine(low, windows, core.vlm_uni_query_projector, core.vlm_uni_aux_projector, core.vlm_uni_val_projector)
        projected = core.mm_projector(low + mined)
        scale = self.config.mm_projector_output_scale
        return projected if scale == 1.0 else projected * scale

    def merge_images(
        self,
        input_ids: Tensor,
        *,
        images: Tensor | None = None,
        images_aux: Tensor | None = None,
        features: TowerFeatures | Sequence[Tensor] | None = None,
        image_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Merged:
        """Word and image embeddings of a batch in one sequence; see :func:`toolkit.mgm.merging.merge`.

        Pictures come as pixels, as tower features, or as ``image_embeds`` (I, N, h) of :meth:`project_images`. Without
        any the ids are only embedded; then they may hold no placeholder.
        """
        words = self.get_input_embeddings()(input_ids.clamp(min=0))
        if features is None and images is not None:
            if images_aux is None:
                raise ValueError("images were given without images_aux; MGM needs both sizes of every image")
            features = self.encode_images(images, images_aux)
        if features is not None and not isinstance(features, TowerFeatures):
            features = TowerFeatures(features[0], tuple(features[1:]))
        if image_embeds is None and features is not None:
            image_embeds = self.project_images(features)
        if image_embeds is None:
            check_image_count(input_ids, 0)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            return Merged(words, mask, labels)
        return merge(input_ids, words, image_embeds, attention_mask=attention_mask, labels=labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        images: Tensor | None = None,
        images_aux: Tensor | None = None,
        features: TowerFeatures | Sequence[Tensor] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, or the loss when labels are given.

        Args:
            input_ids: (B, T), one ``IMAGE_TOKEN_INDEX`` per image. Not together with ``inputs_embeds``.
            attention_mask: (B, T), 1 = real.
            inputs_embeds: (B, L, h) already merged embeddings (Gemma multiplies them by √h itself, images included).
            labels: (B, T) aligned with ``input_ids`` (or with ``inputs_embeds``); the shift by one happens here.
            num_items_in_batch: when given, the loss is the sum over supervised tokens divided by it, else their mean.

        Returns:
            With labels: ``loss`` and ``logits`` of the supervised positions only, (S, vocabulary), in reading order.
            Without: ``logits`` (B, L, vocabulary), of the last ``logits_to_keep`` positions if that is not 0.
        """
        if input_ids is not None and inputs_embeds is None:
            given: dict[str, Any] = {"images": images, "images_aux": images_aux, "features": features}
            if any(v is not None for v in given.values()) or bool((input_ids == IMAGE_TOKEN_INDEX).any()):
                merged = self.merge_images(input_ids, attention_mask=attention_mask, labels=labels, **given)
                inputs_embeds, attention_mask, labels = merged
                input_ids = None
        if labels is None:
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds,
                logits_to_keep=logits_to_keep, **kwargs,
            )  # fmt: skip
        kwargs.setdefault("use_cache", False)
        hidden = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        ).last_hidden_state
        targets = labels[:, 1:]
        supervised = targets != IGNORE_INDEX
        logits = self.lm_head(hidden[:, :-1][supervised])
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(logits.float(), targets[supervised], reduction=reduction)
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return CausalLMOutputWithPast(loss=cast(torch.FloatTensor, loss), logits=logits)

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As ``GenerationMixin.generate``, with images; pad on the left.

        Returns:
            (B, new tokens) when pictures are given in any form; the prompt in front of them otherwise.
        """
        image_kwargs = {k: kwargs.pop(k, None) for k in ("images", "images_aux", "features", "image_embeds")}
        if input_ids is None or all(v is None for v in image_kwargs.values()):
            return super().generate(input_ids, **kwargs)
        merged = self.merge_images(input_ids, attention_mask=kwargs.pop("attention_mask", None), **image_kwargs)
        return super().generate(inputs_embeds=merged.embeds, attention_mask=merged.attention_mask, **kwargs)


AutoModelForCausalLM.register(MGMConfig, MGMGemmaForCausalLM)
