"""Tiny random checkpoints of every family of scorers, as written by ``save_pretrained`` or by OpenCLIP's export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_models.profile_models import WORDS, make_clip, make_open_clip

SIDE = 30
"""Pixels of the images, 6 x 6 patches of 5: an odd size on purpose."""
LIMIT = 16
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": SIDE, "patch_size": 5}


def word_tokenizer(*, start: bool, lower: bool = False) -> Any:
    """Return a tokenizer of ``WORDS`` with end (and start) of text, padded on the right to at most 16 tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*specials, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    if lower:
        words.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    words.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=LIMIT, model_input_names=["input_ids", "attention_mask"] if start else ["input_ids"],
    )  # fmt: skip


def randomised(model: Any) -> Any:
    """Draw larger weights than by default, which would give nearly equal scores."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 or name.endswith("class_embedding"):
                weight.normal_(std=0.2, generator=torch.Generator().manual_seed(weight.numel()))
    return model.eval()


def make_metaclip2(folder: Path) -> Path:
    """Write a ``MetaClip2Model`` with the tokens ``<s> … </s>`` of XLM-RoBERTa."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor, MetaClip2Config, MetaClip2Model

    text = {
        **SIZES, "vocab_size": len(WORDS) + 4, "max_position_embeddings": LIMIT, "bos_token_id": 0, "eos_token_id": 2,
        "pad_token_id": 1,
    }  # fmt: skip
    randomised(
        MetaClip2Model(MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=16))
    ).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(images, word_tokenizer(start=True)).save_pretrained(folder)
    return folder


def make_siglip(folder: Path) -> Path:
    """Write a ``SiglipModel``, also the class of fixed-resolution SigLIP 2 checkpoints; lower-casing tokenizer."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

    text = {
        **SIZES, "vocab_size": len(WORDS) + 4, "max_position_embeddings": LIMIT, "bos_token_id": 0, "eos_token_id": 2,
        "pad_token_id": 1, "projection_size": 32,
    }  # fmt: skip
    randomised(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    SiglipProcessor(images, word_tokenizer(start=False, lower=True)).save_pretrained(folder)
    return folder


def make_siglip2(folder: Path) -> Path:
    """Write a ``Siglip2Model`` (NaFlex): at most 30 patches of 5 x 5 pixels; one token per character, left padding."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model, Siglip2Processor, Siglip2Tokenizer

    characters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *"▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Siglip2Tokenizer({one: at for at, one in enumerate(characters)}, [], model_max_length=LIMIT)
    text = {
        **SIZES, "vocab_size": len(characters), "max_position_embeddings": LIMIT, "bos_token_id": 2, "eos_token_id": 1,
        "pad_token_id": 0, "projection_size": 32,
    }  # fmt: skip
    vision = {**SIZES, "num_patches": 36, "patch_size": 5}
    randomised(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))).save_pretrained(folder)
    images = Siglip2ImageProcessorPil(patch_size=5, max_num_patches=30)
    Siglip2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def make_open_clip_of(
    folder: Path,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    *,
    kind: str,
    writes_tokenizer: bool = True,
) -> Path:
    """Write an OpenCLIP model of any class, exported as by ``push_to_hf_hub``."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if writes_tokenizer and "hf_tokenizer_name" in model_cfg["text_cfg"]:
        word_tokenizer(start=False).save_pretrained(folder)
    model = randomised(getattr(open_clip, kind)(**model_cfg))
    config = {"model_cfg": dict(model_cfg) | ({} if kind == "CLIP" else {"custom_text": True})}
    (folder / "open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": preprocess_cfg}))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


TEXT = {"context_length": LIMIT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SQUASH = {
    "size": [SIDE, SIDE],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def make_open_clip_siglip(folder: Path) -> Path:
    """Write OpenCLIP's SigLIP: timm tower, squashed images, transformers tokenizer, last-token pooling, logit bias."""
    vision = {
        "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "map",
        "timm_proj": "none", "image_size": 160,
    }  # fmt: skip
    text = {
        "context_length": LIMIT, "vocab_size": len(WORDS) + 4, "hf_tokenizer_name": "here", "width": 64, "heads": 2,
        "layers": 1, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }  # fmt: skip
    model = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    bare = {name: value for name, value in model.items() if name != "custom_text"}
    return make_open_clip_of(folder, bare, {**SQUASH, "size": [160, 160]}, kind="CustomTextCLIP")


def make_open_clip_convnext(folder: Path) -> Path:
    """Write a convolutional timm tower with OpenCLIP's text tower."""
    vision = {
        "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
        "image_size": 64,
    }  # fmt: skip
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    return make_open_clip_of(folder, model, {"size": 64, "interpolation": "bicubic"}, kind="CLIP")


def make_open_clip_coca(folder: Path) -> Path:
    """Write a CoCa, whose text tower appends a token to the caption."""
    vision = {
        "image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 5, "attentional_pool": True,
        "attn_pooler_heads": 2, "output_tokens": True,
    }  # fmt: skip
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    decoder = {
        "context_length": LIMIT,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    }
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder}
    return make_open_clip_of(folder, model, {"size": SIDE, "interpolation": "bicubic"}, kind="CoCa")


def make_open_clip_longest(folder: Path) -> Path:
    """Write a model whose transform fits the whole image and fills the rest, which has no fast path."""
    vision = {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 5}
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    return make_open_clip_of(folder, model, {**SQUASH, "resize_mode": "longest"}, kind="CLIP")


TRANSFORMERS: dict[str, Callable[[Path], Path]] = {
    "clip": make_clip, "metaclip_2": make_metaclip2, "siglip": make_siglip, "siglip2": make_siglip2,
}  # fmt: skip
OPEN_CLIP: dict[str, Callable[[Path], Path]] = {
    "open_clip": make_open_clip, "siglip": make_open_clip_siglip, "convnext": make_open_clip_convnext,
    "coca": make_open_clip_coca, "longest": make_open_clip_longest,
}  # fmt: skip
