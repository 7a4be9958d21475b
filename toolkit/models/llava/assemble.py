"""Joins a vision tower and a language model to a LLaVA base that training starts from.

    python -m toolkit.models.llava.assemble --vision clip-vit-large-patch14-336 --language Qwen2-0.5B-Instruct
        --output llava-0.5b-base [--dtype bfloat16] [--seed 0]

In: local folders of a CLIP or SigLIP checkpoint and of a causal language model with a fast tokenizer. Out: one
checkpoint with their weights, tokenizer and preprocessing, and a projector (two layers with GELU) with fresh weights.
Features are those before the tower's last layer, without CLIP's class token, as in LLaVA-1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    SiglipVisionModel,
    set_seed,
)

from toolkit.models.assemble_command import assemble_parser, write_assembled
from toolkit.models.llava.processing import LlavaRows
from toolkit.tokens import IMAGE_TOKEN

TOWERS: dict[str, Any] = {"clip": CLIPVisionModel, "clip_vision_model": CLIPVisionModel, "siglip": SiglipVisionModel,
          "siglip_vision_model": SiglipVisionModel}  # fmt: skip
"""What reads the vision part of a checkpoint, by its ``model_type``."""


class AssemblyError(ValueError):
    """Parts that are missing or of a type that cannot be joined; names the folder."""


def assemble(
    vision: Path, language: Path, *, dtype: torch.dtype, seed: int = 0
) -> tuple[LlavaForConditionalGeneration, LlavaRows]:
    """Build model and processor.

    Raises:
        AssemblyError, ValueError: a part is missing or does not fit.
    """
    for name, folder in (("vision", vision), ("language", language)):
        if not folder.is_dir():  # transformers would take its path for a name on the hub
            raise AssemblyError(f"{name}: {str(folder)!r} is no folder; give a local copy")
    kind = AutoConfig.from_pretrained(vision).model_type
    if kind not in TOWERS:
        raise AssemblyError(f"vision: {str(vision)!r} is of model_type {kind!r}; use one of {', '.join(TOWERS)}")
    tower: Any = TOWERS[kind].from_pretrained(vision, dtype=dtype)
    text: Any = AutoModelForCausalLM.from_pretrained(language, dtype=dtype)
    tokenizer: Any = AutoTokenizer.from_pretrained(language, use_fast=True)
    tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    if len(tokenizer) > text.config.vocab_size:
        text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = llava_config(tower.config, text.config, int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))
    set_seed(seed)
    model: Any = LlavaForConditionalGeneration(config)
    model.to(dtype)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.get_decoder().state_dict())
    if not config.tie_word_embeddings:
        model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.tie_weights()
    if text.generation_config is not None:
        ends = {name: getattr(text.generation_config, name) for name in ("bos_token_id", "eos_token_id")}
        model.generation_config.update(**ends, pad_token_id=tokenizer.pad_token_id)
    return model, LlavaRows.of(llava_processor(vision, tokenizer, config), config)


def llava_config(vision: PretrainedConfig, text: PretrainedConfig, image_token_id: int) -> LlavaConfig:
    """The architecture that two configs make."""
    is_clip = vision.model_type == "clip_vision_model"
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token_id, vision_feature_layer=-2,
        vision_feature_select_strategy="default" if is_clip else "full", projector_hidden_act="gelu",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )  # fmt: skip


def llava_processor(vision: Path, tokenizer: PreTrainedTokenizerBase, config: LlavaConfig) -> LlavaProcessor:
    """The vision checkpoint's preprocessing with the language model's tokenizer and chat template."""
    vision_config: Any = config.vision_config
    return LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(vision), tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy, image_token=IMAGE_TOKEN,
        num_additional_image_tokens=int(config.vision_feature_select_strategy == "default"),
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = assemble_parser("toolkit.models.llava.assemble", "Join public weights.", ("vision", "language"))
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the projector; pre-training initializes it again"
    )
    options = parser.parse_args(arguments)
    dtype = getattr(torch, options.dtype)
    build = partial(assemble, options.vision, options.language, dtype=dtype, seed=options.seed)
    return write_assembled(parser, options.output, build)


if __name__ == "__main__":
    raise SystemExit(main())
