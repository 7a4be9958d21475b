"""Tiny random models of the classes that only Data-Juicer's operators and the LLaVA captioner use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SIDE = 32


def make_blip_itm(folder: Path, captions: Iterable[str], seed: int = 0) -> Path:
    """Write a ``BlipForImageTextRetrieval`` with the captions' words as vocabulary; context of 32 tokens."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    folder.mkdir(parents=True)
    words = sorted({word for caption in captions for word in re.findall(r"\w+", caption.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 32, "encoder_hidden_size": 32,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3,
    }  # fmt: skip
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16))
    with torch.no_grad():  # the default initialisation would give every pair the same probability
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)
        model.itm_head.weight.normal_()
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def make_owlvit(folder: Path, clip: Path, seed: int = 0) -> Path:
    """Write an ``OwlViTForObjectDetection`` of 16 boxes with the tokenizer of a tiny ``CLIPModel``."""
    import torch
    from transformers import (
        CLIPTokenizerFast,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        OwlViTProcessor,
    )

    tokenizer = CLIPTokenizerFast.from_pretrained(clip)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    model = OwlViTForObjectDetection(OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32))
    with torch.no_grad():  # the default initialisation would find every phrase in the same box
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    OwlViTProcessor(OwlViTImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    return folder


def make_aesthetics(folder: Path, clip: Path, kind: str = "AestheticsPredictorV2Linear", seed: int = 0) -> Path:
    """Write an aesthetics predictor with the image processor of a tiny ``CLIPModel``; the folder's name matters."""
    import torch
    from transformers import CLIPProcessor, CLIPVisionConfig

    from bettersynth_assets.models.aesthetics import CLASSES

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    model = CLASSES[kind](CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=8, projection_dim=16))
    model.save_pretrained(folder)
    CLIPProcessor.from_pretrained(clip).save_pretrained(folder)
    return folder
