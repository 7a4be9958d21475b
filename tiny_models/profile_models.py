"""Tiny random models of the classes that the profiles name. Out: folders as written by ``save_pretrained``.

Each function fills a folder and returns it; equal seeds give equal weights. The fixture ``tiny_models`` in
``bettersynth_assets_tests/conftest.py`` creates all of them once per session.
"""

from __future__ import annotations

import json
import math
import string
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "a", "photo", "of", "the", "red", "blue", "green", "square", "circle", "cat", "dog", "on", "in", "with", "sky",
    "stock", "image", "small", "large", "two",
)  # fmt: skip
SIDE = 32


@dataclass(frozen=True, kw_only=True)
class TinyModels:
    """Folders by role, as a profile's ``models`` section names them."""

    clip: Path
    open_clip: Path
    watermark: Path
    captioner: Path


def make_all(root: Path) -> TinyModels:
    """Write one model of each class to ``root``."""
    return TinyModels(
        clip=make_clip(root / "clip"),
        open_clip=make_open_clip(root / "open_clip"),
        watermark=make_watermark(root / "watermark"),
        captioner=make_blip2(root / "blip2"),
    )


def make_clip(folder: Path, seed: int = 0) -> Path:
    """Write a transformers ``CLIPModel`` with logit scale 100, as in the public checkpoints; context of 16 tokens."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    folder.mkdir(parents=True)
    characters = string.ascii_lowercase + string.digits + ".,'-"
    tokens = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    text = {
        "vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8,
    }  # fmt: skip
    torch.manual_seed(seed)
    scale = {"projection_dim": 16, "logit_scale_init_value": math.log(100)}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, **scale))
    size = {"shortest_edge": SIDE}
    image_processor = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def make_open_clip(folder: Path, seed: int = 0) -> Path:
    """Write an OpenCLIP ``CLIP`` with OpenCLIP's byte-pair tokenizer; context of 16 tokens."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**model_cfg)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def make_watermark(folder: Path, seed: int = 0) -> Path:
    """Write a two-class ``ViTForImageClassification``; class 1 is "has a watermark"."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(seed)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE,
            patch_size=8, num_labels=2, initializer_range=0.5,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def make_blip2(folder: Path, seed: int = 0) -> Path:
    """Write a ``Blip2ForConditionalGeneration`` with an OPT whose vocabulary is ``WORDS``."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        PreTrainedTokenizerFast,
    )

    specials = ["<pad>", "<unk>", "</s>", "<image>"]
    vocabulary = {word: index for index, word in enumerate([*specials, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="</s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    config = Blip2Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 8,
        },
        qformer_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "encoder_hidden_size": 32, "vocab_size": 8, "cross_attention_frequency": 1,
        },
        text_config={
            "model_type": "opt", "vocab_size": len(vocabulary), "hidden_size": 32, "ffn_dim": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 32,
            "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2, "init_std": 1.0,
        },
        num_query_tokens=4,
        image_token_index=vocabulary["<image>"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # the default initialisation would give every image the same caption
        model.query_tokens.normal_()
        model.language_projection.weight.normal_()
        for module, spread in ((model.vision_model, 1.0), (model.qformer, 0.2)):
            for weight in module.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=spread)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    Blip2Processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder
