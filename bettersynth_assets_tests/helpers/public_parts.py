"""Tiny vision towers and language models with the classes, tensor names and file formats of public models.

Weights are random; everything else follows the public folders: a whole CLIP as ``pytorch_model.bin`` with the
buffers of older releases and sizes as plain numbers, a whole SigLIP as safetensors, Qwen2 with tied embeddings and a
vocabulary padded beyond its tokenizer, a Llama of Vicuna's kind in shards, without padding token and chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
)

WIDTHS: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_clip(folder: Path) -> Path:
    """A whole CLIP, as ``openai/clip-vit-large-patch14-336`` is published."""
    vision = {**WIDTHS, "image_size": 28, "patch_size": 14}
    text = {**WIDTHS, "vocab_size": 64, "max_position_embeddings": 16}
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(5).unsqueeze(0)
    tensors["text_model.embeddings.position_ids"] = torch.arange(16).unsqueeze(0)
    torch.save(tensors, folder / "pytorch_model.bin")
    settings = {
        "crop_size": 28, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 28,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def save_siglip(folder: Path) -> Path:
    """A whole SigLIP, as ``google/siglip-so400m-patch14-384`` is published."""
    vision = {**WIDTHS, "image_size": 31, "patch_size": 14}  # as 384 by 14, no multiple: 2 × 2 patches and a rest
    text = {**WIDTHS, "vocab_size": 64, "max_position_embeddings": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    settings = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": 31, "width": 31},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def save_qwen2(folder: Path) -> Path:
    """A Qwen2 with a chat template, as ``Qwen/Qwen2-0.5B-Instruct`` is published."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    config = Qwen2Config(
        **WIDTHS, num_key_value_heads=1, vocab_size=288, tie_word_embeddings=True, bos_token_id=256, eos_token_id=258,
        max_position_embeddings=512,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [258, 256], 256
    model.save_pretrained(folder)
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "add_prefix_space": False, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
        "chat_template": QWEN_TEMPLATE, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 512,
        "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def save_llama(folder: Path) -> Path:
    """A Llama of two shards without a chat template, as ``lmsys/vicuna-7b-v1.5`` is published."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    config = LlamaConfig(
        **WIDTHS, vocab_size=len(pieces), bos_token_id=1, eos_token_id=2, pad_token_id=None, max_position_embeddings=512
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in pieces[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 4096, "pad_token": None,
        "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
