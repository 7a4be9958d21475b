"""A tiny LLaVA with random weights, for tests and for measuring overhead; the same classes as a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.tokens import END_OF_TURN, IMAGE_TOKEN, START_OF_TURN

CHATML = (
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
)
"""The layout of Qwen's template, with the tiny tokenizer's marks."""


def tiny_llava(seed: int = 0, **text: Any) -> LlavaForConditionalGeneration:
    """3 + 2 layers of width 24 and 32, 28 px inputs of 4 tokens; in evaluation mode."""
    language = {
        "vocab_size": 304, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = LlavaConfig(
        vision_config=vision, text_config=Qwen2Config(**{**language, **text}), image_token_index=262,
        vision_feature_layer=-2, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def llava_processor(
    tokenizer: PreTrainedTokenizerBase, *, side: int, patch: int, template: str | None, image_token: str = IMAGE_TOKEN
) -> LlavaProcessor:
    """CLIP's preprocessing at one size, with a tokenizer that knows the image token."""
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="default",
        image_token=image_token, num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def save_tiny_llava(folder: Path, seed: int = 0, **text: Any) -> LlavaForConditionalGeneration:
    """Write a complete tiny checkpoint (weights, config, tokenizer, preprocessing) and return its model."""
    model = tiny_llava(seed, **text)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [START_OF_TURN, END_OF_TURN, IMAGE_TOKEN]})
    tokenizer.chat_template = CHATML
    llava_processor(tokenizer, side=28, patch=14, template=CHATML).save_pretrained(folder)
    return model
