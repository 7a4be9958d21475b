"""Converts the MGM base into a LLaVA base without training. In: the MGM base's folder. Out: another folder.

Gemma at this size equals a Llama with rewritten weights: Gemma's norms add 1 to their weights, and it multiplies word
embeddings by √h. Instead of that factor, the outputs that a layer adds to the residual stream are divided by √h.
Every read of the stream is normalised, so both models compute the same, and embeddings and logits share one table.
CLIP's tower is scaled likewise, to features of RMS ``FEATURE_RMS``. The projector has random weights of a fixed seed;
pre-training initializes it again in any case. Text has the layout that the language model was trained on
(``language.py``).
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.tokenizer import BLANK, make_tokenizer
from bettersynth_assets.miniature.training.language_model import gemma_config
from bettersynth_assets.miniature.training.towers import CLIP_FIELDS, KEPT_LAYERS
from bettersynth_assets.miniature.world import make_scene
from toolkit.models.llava.processing import LlavaRows
from toolkit.models.llava.tiny import llava_processor

FEATURE_RMS = 1.5
SEED = 7
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_TOWER, _LANGUAGE = "model.vision_tower.", "model.language_model."
_VISION_IN_MGM = "model.vision_tower.vision_tower.vision_model."


def llava_config(vocabulary: int, image_token_id: int) -> LlavaConfig:
    """Architecture of the miniature LLaVA."""
    gemma = gemma_config(vocabulary)
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act",
        "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    text = LlamaConfig(**{name: getattr(gemma, name) for name in same}, tie_word_embeddings=True)
    vision = CLIPVisionConfig(**{**CLIP_FIELDS, "num_hidden_layers": KEPT_LAYERS})
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token_id, vision_feature_layer=-2,
        vision_feature_select_strategy="default", projector_hidden_act="gelu", tie_word_embeddings=True,
    )  # fmt: skip


def as_llama(name: str, tensor: Tensor, width: int) -> Tensor:
    """Convert one of Gemma's tensors (name without ``model.``) to Llama's tensor of the same name."""
    if name.endswith("norm.weight"):
        return 1 + tensor
    return tensor / math.sqrt(width) if name.endswith(("o_proj.weight", "down_proj.weight")) else tensor


def scaled_tower(name: str, tensor: Tensor, factor: float) -> Tensor:
    """Scale one of CLIP's tensors so that the residual stream grows by ``factor``."""
    writes = ("pre_layrnorm.", "self_attn.out_proj.", "mlp.fc2.")
    return tensor * factor if any(module in name for module in writes) else tensor


def assemble(mgm: Path, folder: Path) -> dict[str, float]:
    """Write the folder (float16); return the number of parameters and the tower's scale factor.

    Raises:
        ValueError: the weights do not fit.
    """
    tokenizer: Any = make_tokenizer("gemma")
    tokenizer.chat_template = TEMPLATE
    config = llava_config(len(tokenizer), int(tokenizer.convert_tokens_to_ids(BLANK)))
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config).eval()
    tensors = {name: tensor.float() for name, tensor in load_file(mgm / "model.safetensors").items()}
    tower = {name.removeprefix(_VISION_IN_MGM): t for name, t in tensors.items() if name.startswith(_VISION_IN_MGM)}
    text: Any = config.text_config
    width = text.hidden_size
    language = {
        name.removeprefix("model."): as_llama(name, tensor, width)
        for name, tensor in tensors.items()
        if name.startswith(("model.layers.", "model.norm.", "model.embed_tokens."))
    }
    _load(model, _TOWER, tower)
    _load(model, _LANGUAGE, language)
    processor = llava_processor(tokenizer, side=84, patch=14, template=TEMPLATE, image_token=BLANK)
    factor = FEATURE_RMS / _feature_rms(model, LlavaRows.of(processor, config))
    _load(model, _TOWER, {name: scaled_tower(name, tensor, factor) for name, tensor in tower.items()})
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"parameters": float(model.num_parameters()), "tower_scaled_by": factor}


def _load(model: LlavaForConditionalGeneration, prefix: str, tensors: dict[str, Tensor]) -> None:
    # Depending on its release, transformers puts ``vision_model.`` into the names of a tower's tensors.
    model_names = {
        k.removeprefix(prefix).removeprefix("vision_model."): k for k in model.state_dict() if k.startswith(prefix)
    }
    missing = set(model_names) ^ set(tensors)
    if missing:
        raise ValueError(f"the MGM base lacks weights of {prefix} {sorted(missing)[:5]}; train it again")
    model.load_state_dict({model_names[name]: tensor for name, tensor in tensors.items()}, strict=False)


@torch.no_grad()
def _feature_rms(model: LlavaForConditionalGeneration, processor: LlavaRows) -> float:
    """Root mean square of the projector's input, over some scenes of the world."""
    rng = random.Random(SEED)
    images = [render(make_scene(rng, "weights"), width=384, height=384) for _ in range(16)]
    pixels = processor.pixel_inputs(processor.squares(images, aspect="square"))["pixel_values"]
    tower = model.model.vision_tower
    features = tower(pixels, output_hidden_states=True).hidden_states[model.config.vision_feature_layer][:, 1:]
    return float(features.square().mean().sqrt())
