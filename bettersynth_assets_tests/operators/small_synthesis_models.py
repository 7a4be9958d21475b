"""Tiny random models that make captions and images: LLaVA and Stable Diffusion, as ``save_pretrained`` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bettersynth_assets_tests.models import WORDS

SIDE = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_llava(folder: Path, seed: int = 0, *, image_processor: Any = None, chat_template: str | None = None) -> Path:
    """A ``LlavaForConditionalGeneration`` with a Llama that knows ``WORDS``; CLIP's image processor unless given."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    specials = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
    vocabulary = {word: index for index, word in enumerate([*specials, "USER:", "ASSISTANT:", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"], padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=SIDE, patch_size=8),
        text_config=LlamaConfig(
            **sizes, vocab_size=len(vocabulary), num_hidden_layers=2, num_key_value_heads=2,
            max_position_embeddings=256, pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.5,
        ),
        image_token_index=vocabulary["<image>"],
        image_seq_length=(SIDE // 8) ** 2,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # the default initialisation would give every image the same caption
        for part in (model.model.vision_tower, model.model.multi_modal_projector):
            for weight in part.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=0.5)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 3, 0
    model.save_pretrained(folder)
    crop = {"height": SIDE, "width": SIDE}
    LlavaProcessor(
        image_processor or CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    return folder
