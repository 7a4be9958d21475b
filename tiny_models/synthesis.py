"""Tiny random LLaVA and Stable Diffusion models, in folders as written by ``save_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tiny_models.profile_models import WORDS

SIDE = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def distinct_images(count: int = 10) -> list[Image.Image]:
    """Return images of 4 x 4 random colours and increasing width, which a tiny model can distinguish."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(count)]
    return [image.resize((40 + 3 * at, 50), Image.Resampling.NEAREST) for at, image in enumerate(coarse)]


def make_llava(folder: Path, seed: int = 3, *, image_processor: Any = None, chat_template: str | None = None) -> Path:
    """Write a ``LlavaForConditionalGeneration`` with ``WORDS`` as vocabulary; CLIP's image processor by default."""
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
        for module in (model.model.vision_tower, model.model.multi_modal_projector):
            for weight in module.parameters():
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


def make_stable_diffusion(folder: Path, clip: Path, seed: int = 0, *, refuses_all: bool = False) -> Path:
    """Write a ``StableDiffusionPipeline`` of 16 x 16 pixels with safety checker and the tokenizer of a tiny CLIP.

    Args:
        folder: to fill.
        clip: a folder of ``make_clip``.
        seed: of the weights.
        refuses_all: whether the checker refuses every image, or none.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            **sizes, vocab_size=len(tokenizer), max_position_embeddings=16, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    unet = UNet2DConditionModel(
        **blocks, sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        **blocks, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=4))
    with torch.no_grad():  # a cosine above a concept's threshold refuses the image
        checker.visual_projection.weight.normal_(generator=torch.Generator().manual_seed(seed))
        checker.concept_embeds.normal_(generator=torch.Generator().manual_seed(seed))
        checker.special_care_embeds_weights.fill_(2.0)
        checker.concept_embeds_weights.fill_(-2.0 if refuses_all else 2.0)
    crop = {"height": SIDE, "width": SIDE}
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler(num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=checker, feature_extractor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop),
    ).save_pretrained(folder)  # fmt: skip
    return folder
