"""Converts the scoring CLIP to a transformers ``CLIPModel``. In: OpenCLIP's weights. Out: a folder for ``AutoModel``.

Data-Juicer's ``image_text_similarity_filter`` loads this class. The weights are equal, so scores agree up to rounding.
"""

from __future__ import annotations

from pathlib import Path

import open_clip
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from bettersynth_assets.miniature.tokenizer import make_tokenizer
from bettersynth_assets.miniature.training.scorer import SIDE, SPACE, model_config


def _block(source: dict[str, Tensor], old_prefix: str, new_prefix: str) -> dict[str, Tensor]:
    """Rename the tensors of one transformer block; OpenCLIP keeps query, key and value in one matrix."""
    renamed: dict[str, Tensor] = {}
    for parameter in ("weight", "bias"):
        chunks = source[f"{old_prefix}.attn.in_proj_{parameter}"].chunk(3)
        renamed |= {f"{new_prefix}.self_attn.{n}_proj.{parameter}": p for n, p in zip("qkv", chunks, strict=True)}
        renamed[f"{new_prefix}.self_attn.out_proj.{parameter}"] = source[f"{old_prefix}.attn.out_proj.{parameter}"]
        for open_clip_name, transformers_name in (
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            renamed[f"{new_prefix}.{transformers_name}.{parameter}"] = source[
                f"{old_prefix}.{open_clip_name}.{parameter}"
            ]
    return renamed


def convert(model: CLIP, vocabulary: int) -> CLIPModel:
    """Return the model as a transformers ``CLIPModel``, float32, in evaluation mode."""
    described = model_config(vocabulary)
    vision, text = described["vision_cfg"], described["text_cfg"]
    config = CLIPConfig(
        projection_dim=SPACE,
        vision_config={
            "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"], "image_size": SIDE,
            "num_hidden_layers": vision["layers"], "num_attention_heads": vision["width"] // vision["head_width"],
            "patch_size": vision["patch_size"], "hidden_act": "gelu", "projection_dim": SPACE,
        },
        text_config={
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"], "vocab_size": vocabulary,
            "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"], "hidden_act": "gelu",
            "max_position_embeddings": text["context_length"], "projection_dim": SPACE, "eos_token_id": vocabulary - 1,
            "bos_token_id": make_tokenizer("clip").bos_token_id, "pad_token_id": 0,
        },
    )  # fmt: skip
    state = model.state_dict()
    converted_state: dict[str, Tensor] = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        converted_state[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        converted_state[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        converted_state[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    for k in range(vision["layers"]):
        converted_state |= _block(state, f"visual.transformer.resblocks.{k}", f"vision_model.encoder.layers.{k}")
    for k in range(text["layers"]):
        converted_state |= _block(state, f"transformer.resblocks.{k}", f"text_model.encoder.layers.{k}")
    converted = CLIPModel(config)
    converted.load_state_dict({k: v.contiguous() for k, v in converted_state.items()}, strict=True)
    return converted.eval()


def save(model: CLIP, folder: Path, vocabulary: int) -> None:
    """Write the transformers folder with float16 weights."""
    convert(model, vocabulary).half().save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(open_clip.OPENAI_DATASET_MEAN), image_std=list(open_clip.OPENAI_DATASET_STD),
    )  # fmt: skip
    CLIPProcessor(image_processor=images, tokenizer=make_tokenizer("clip")).save_pretrained(folder)
