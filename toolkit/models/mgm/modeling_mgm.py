"""MGM: Gemma with image inputs through CLIP, ConvNeXt, patch-info mining and a projector.

::

    images (I,3,s,s)      ─► CLIP      ─► low  (I,N,d) ──────────────┬─► + ─► projector ─► (I,N,h) ─┐
    images_aux (I,3,S,S)  ─► ConvNeXt  ─► 4 maps ─► mining windows ──┘                              ▼
    input_ids (B,T), one placeholder per image  ─► word embeddings (B,T,h) ─► merge ─► Gemma ─► logits or loss

Parameter names are those of the public MGM-2B weights. ``encode_images`` (frozen) and ``project_images`` (trained) are
separate, so that a caller can cache the tower features and skip both towers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GemmaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.gemma.modeling_gemma import GemmaPreTrainedModel

from toolkit.models.mgm.backbone import MGMGemmaModel, TorchInitMixin
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.common.speed import CPU, Speed, compiled, speed_for
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.language.loss import loss_and_logits
from toolkit.models.mgm.language.merging import Merged, check_image_count, lay_out, merge, place
from toolkit.models.mgm.vision.mining import mine, mine_plain
from toolkit.models.mgm.vision.towers import TowerFeatures
from toolkit.models.mgm.vision.windows import Windows, cut, resize_matrices
from toolkit.tensor_files import apply_umask, writing


class MGMGemmaForCausalLM(TorchInitMixin, GemmaForCausalLM):
    """MGM with its language-model head (tied to the word embeddings).

    In addition to Gemma's arguments, :meth:`forward` and :meth:`generate` accept either ``images`` (I, 3, s, s) and
    ``images_aux`` (I, 3, S, S), normalised floats, or ``features``, a :class:`TowerFeatures` of the same images
    (or its five tensors as a plain sequence).
    """

    config_class = MGMConfig
    speed: Speed = CPU
    """Implementation of forward passes; all choices have the same result up to rounding."""

    def __init__(self, config: MGMConfig) -> None:
        # Skip GemmaForCausalLM's constructor, which would first build a second, plain Gemma.
        GemmaPreTrainedModel.__init__(self, config)
        self.model = MGMGemmaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def set_speed(self, choice: str | Mapping[str, bool], device: torch.device | str | None = None) -> None:
        """Select the implementation of forward passes on a device (default: the model's); see ``mgm.common.speed``.

        Raises:
            ValueError: an unknown choice or switch.
        """
        self.speed = speed_for(choice, device or self.device, self.config.vision_aux_config["dims"])
        if self.speed.checkpointing:
            self.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.gradient_checkpointing_disable()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write config and weights as transformers does, but with the permissions that the umask grants.

        Raises:
            EnvironmentFault: the disk is full or read-only.
        """
        with writing(Path(save_directory, "model.safetensors")):
            super().save_pretrained(save_directory, *args, **kwargs)
            apply_umask(Path(save_directory))

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of computation: that of the frozen towers. Trained weights may have a wider dtype."""
        return next(self.model.vision_tower_aux.parameters()).dtype

    def encode_images(self, images: Tensor, images_aux: Tensor) -> TowerFeatures:
        """Run both frozen towers without gradients: (I, 3, s, s), (I, 3, S, S) -> :class:`TowerFeatures`."""
        clip, convnext, dtype = self.model.vision_tower, self.model.vision_tower_aux, self.compute_dtype
        with torch.no_grad():
            return TowerFeatures(clip(images.to(dtype), self.speed), convnext(images_aux.to(dtype), self.speed))

    def project_images(self, features: TowerFeatures) -> Tensor:
        """Mine the high-resolution maps and project to image embeddings (I, N, h); trained in both phases.

        Float32 weights are cast to the features' dtype on use; their gradients are float32.
        """
        core, low = self.model, features.low
        run = partial(_run, is_compiled=self.speed.compiled)
        read = self._read_maps(features, run)
        mixed = core.mm_projector[0].weight.dtype != low.dtype
        with torch.autocast(low.device.type, dtype=low.dtype if mixed else None, enabled=mixed):
            result: Tensor = run(_project, core, low, read)
        return result

    def mine_images(self, features: TowerFeatures) -> Tensor:
        """Return what the projector receives (I, N, d), in the dtype of its weights and without compilation."""
        dtype = self.model.mm_projector[0].weight.dtype
        features = TowerFeatures(features.low.to(dtype), tuple(part.to(dtype) for part in features.maps))
        return _mine(self.model, features.low, self._read_maps(features, _run))

    def _read_maps(self, features: TowerFeatures, run: Callable[..., Any]) -> Windows | tuple[Tensor, ...]:
        """Return what is mined: windows, or the four maps for the original computation."""
        if not self.speed.rearranged_mining:
            return features.maps
        core = self.model
        n = core.config.tokens_per_side
        resizes = resize_matrices(core.config.image_size_aux // 4 // n, len(features.maps), features.low.device)
        # Compiled separately from the trained part, so that the backward pass stores the cells in their own dtype.
        windows: Windows = run(cut, features.maps, n, core.vlm_uni_aux_projector.norm.eps, resizes)
        return windows

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
        """Merge word and image embeddings of a batch; see :func:`toolkit.models.mgm.language.merging.merge`.

        Images are given as pixels, as tower features, or as ``image_embeds`` (I, N, h) from :meth:`project_images`.
        Without images, the ids are only embedded and must not contain placeholders.
        """
        word_embeds = self._embed(input_ids)
        if image_embeds is None:
            image_embeds = self._image_embeds(images, images_aux, features)
        if image_embeds is None:
            check_image_count(int((input_ids == IMAGE_TOKEN_INDEX).sum()), 0)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            return Merged(word_embeds, mask, labels)
        return merge(input_ids, word_embeds, image_embeds, attention_mask=attention_mask, labels=labels)

    def _embed(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, h)."""
        embeds: Tensor = self.get_input_embeddings()(input_ids.clamp(min=0))
        return embeds.to(self.compute_dtype)

    def _image_embeds(
        self, images: Tensor | None, images_aux: Tensor | None, features: TowerFeatures | Sequence[Tensor] | None
    ) -> Tensor | None:
        if features is None and images is not None:
            if images_aux is None:
                raise ValueError("images given without images_aux; MGM needs both sizes of every image")
            features = self.encode_images(images, images_aux)
        if features is None:
            return None
        low, *maps = (features.low, *features.maps) if isinstance(features, TowerFeatures) else features
        dtype = self.compute_dtype
        return self.project_images(TowerFeatures(low.to(dtype), tuple(part.to(dtype) for part in maps)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        images: Tensor | None = None,
        images_aux: Tensor | None = None,
        features: TowerFeatures | Sequence[Tensor] | None = None,
        labels: Tensor | None = None,
        layout: Mapping[str, Tensor] | None = None,
        loss_weights: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits and, if labels are given, the loss.

        Args:
            input_ids: (B, T), one ``IMAGE_TOKEN_INDEX`` per image. Mutually exclusive with ``inputs_embeds``.
            attention_mask: (B, T), 1 = real token. With labels, rows must be padded on the right.
            position_ids: (B, T or L), computed by ``generate`` from a left-padded mask; only without labels.
            inputs_embeds: (B, L, h) merged embeddings, all of which the decoder multiplies by √h; only without labels.
            labels: (B, T) aligned with ``input_ids``; this method shifts them by one.
            layout: from :func:`~toolkit.models.mgm.language.merging.lay_out` for the same ids, mask and
                labels, if available.
            loss_weights: (B,). If given, the loss is the sum of weight × cross-entropy over labelled tokens; else it
                is the mean cross-entropy.
            num_items_in_batch: equivalent to the weight 1/``num_items_in_batch`` for every row, as Hugging Face's
                Trainer requires.

        Returns:
            With labels: ``loss``, and ``logits`` (S, vocabulary) of the labelled positions in reading order.
            Without: ``logits`` (B, L, vocabulary), of the last ``logits_to_keep`` positions if that is not 0.
        """
        image_inputs: dict[str, Any] = {"images": images, "images_aux": images_aux, "features": features}
        if labels is not None and input_ids is not None:
            if layout is None:
                layout = lay_out(input_ids, attention_mask, labels, image_tokens=self.config.image_tokens)
            if loss_weights is None and num_items_in_batch is not None:
                loss_weights = torch.ones(len(input_ids), device=input_ids.device) / num_items_in_batch
            word_embeds, image_embeds = self._embed(input_ids), self._image_embeds(**image_inputs)
            if image_embeds is None:
                image_embeds = word_embeds.new_zeros(0, self.config.image_tokens, word_embeds.shape[-1])
            embeds = place(layout, word_embeds, image_embeds)
            head = self.lm_head.weight
            loss, logits = loss_and_logits(self.model, head, layout, embeds, loss_weights, speed=self.speed, **kwargs)
            return CausalLMOutputWithPast(loss=cast(torch.FloatTensor, loss), logits=cast(torch.FloatTensor, logits))
        if input_ids is not None and inputs_embeds is None:
            merged = self.merge_images(input_ids, attention_mask=attention_mask, **image_inputs)
            inputs_embeds, input_ids = merged.embeds, None
            # With a cache, a missing mask means no padding; a mask of only the new tokens' length would be wrong.
            if attention_mask is not None or any(value is not None for value in image_inputs.values()):
                attention_mask = merged.attention_mask
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep, **kwargs,
        )  # fmt: skip

    @torch.no_grad()
    def generate(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """Run ``GenerationMixin.generate`` with images; rows must be padded on the left.

        Returns:
            (B, new tokens) with images in any form; (B, prompt + new tokens) without.
        """
        image_kwargs = {k: kwargs.pop(k, None) for k in ("images", "images_aux", "features", "image_embeds")}
        if input_ids is None or all(v is None for v in image_kwargs.values()):
            return super().generate(input_ids, **kwargs)
        merged = self.merge_images(input_ids, attention_mask=kwargs.pop("attention_mask", None), **image_kwargs)
        return super().generate(inputs_embeds=merged.embeds, attention_mask=merged.attention_mask, **kwargs)


def _run(part: Callable[..., Any], *arguments: Any, is_compiled: bool = False) -> Any:
    return (compiled(part, dynamic=False) if is_compiled else part)(*arguments)


def _mine(core: MGMGemmaModel, low: Tensor, read: Windows | tuple[Tensor, ...]) -> Tensor:
    """Add to each low-resolution token what it mines; ``read`` holds windows, or the four maps."""
    config = core.config
    if config.mm_feature_norm:
        low = F.layer_norm(low, low.shape[-1:])
    parts = core.vlm_uni_query_projector, core.vlm_uni_aux_projector, core.vlm_uni_val_projector
    if isinstance(read, Windows):
        return low + mine(low, read, *parts)
    return low + mine_plain(low, read, config.tokens_per_side, *parts)


def _project(core: MGMGemmaModel, low: Tensor, read: Windows | tuple[Tensor, ...]) -> Tensor:
    """Mine and project."""
    projected: Tensor = core.mm_projector(_mine(core, low, read))
    scale = core.config.mm_projector_output_scale
    return projected if scale == 1.0 else projected * scale


AutoModelForCausalLM.register(MGMConfig, MGMGemmaForCausalLM)
