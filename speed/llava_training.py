"""LLaVA training end to end, from JPEG files on disk to weights, with random weights of public sizes.

    python speed/llava_training.py [--stage pretrain] [--steps 12] [--batch 32] [--workers 8] [--tiny]

The sizes are those of the profile ``llava-0.5b``: CLIP ViT-L/14 at 336 px and Qwen2-0.5B (576 image tokens, 0.8 billion
parameters). Runs ``python -m toolkit.training.run`` on the data of ``speed/training.py`` and ignores the first two
steps. Prints lines of JSON; the last one has samples/s, peak GiB and the device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from training import train, write_data
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration, Qwen2Config

from toolkit.models.llava.assemble import llava_config
from toolkit.models.llava.tiny import CHATML, llava_processor, save_tiny_llava
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.tokens import END_OF_TURN, IMAGE_TOKEN, START_OF_TURN

CLIP_L: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
QWEN2_05B: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "tie_word_embeddings": True, "rope_theta": 1000000.0,
}  # fmt: skip
BATCH = {"pretrain": 32, "finetune": 16}


def write_base(folder: Path, *, tiny: bool) -> None:
    """Write a checkpoint with random weights; its byte tokenizer uses few of the vocabulary's ids."""
    if tiny:
        save_tiny_llava(folder)
        return
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [START_OF_TURN, END_OF_TURN, IMAGE_TOKEN]})
    tokenizer.chat_template = CHATML
    image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    config = llava_config(CLIPVisionConfig(**CLIP_L), Qwen2Config(**QWEN2_05B), image_token)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = LlavaForConditionalGeneration(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    llava_processor(tokenizer, side=336, patch=14, template=CHATML).save_pretrained(folder)


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=BATCH, default="pretrain")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="tiny model on the CPU, only to try the command")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    args.deepspeed, args.whole = False, False
    root = Path(tempfile.mkdtemp())
    try:
        write_data(root, args.stage, rows=256 * args.steps)
        write_base(root / "base", tiny=args.tiny)
        batch = args.batch or BATCH[args.stage]
        result = train(root, "ours", args.stage, args.steps, batch, "auto", args)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(json.dumps({**result, "model": "llava-0.5b", "device": device}))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
