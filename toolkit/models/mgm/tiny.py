"""A tiny MGM with random weights and the classes of the real model, for tests and overhead measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.tiny_tokenizer import tiny_tokenizer


def tiny_config(**overrides: Any) -> MGMConfig:
    """Return a config with a 2-layer decoder of width 32 and 28 px and 64 px inputs: 4 tokens with 8×8 windows."""
    fields: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": 2, "image_size_aux": 64,
        "vision_config": {
            "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        "vision_aux_config": {
            "depths": [1, 1, 1, 1], "dims": [4, 6, 8, 10], "drop_path_rate": 0.1, "layer_scale_init": 0.5,
        },
    }  # fmt: skip
    return MGMConfig(**{**fields, **overrides})


def tiny_mgm(seed: int = 0, **overrides: Any) -> MGMGemmaForCausalLM:
    """Return a tiny model in evaluation mode; its weights are determined by the seed and the overrides."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MGMGemmaForCausalLM(tiny_config(**overrides)).eval()


def save_tiny(folder: Path, seed: int = 0, **overrides: Any) -> MGMGemmaForCausalLM:
    """Write a complete tiny checkpoint (weights, config, tokenizer, preprocessing) and return its model."""
    model = tiny_mgm(seed, **overrides)
    model.save_pretrained(folder)
    MGMProcessor.for_config(tiny_config(**overrides), tiny_tokenizer()).save_pretrained(folder)
    return model
