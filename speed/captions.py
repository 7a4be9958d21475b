"""BLIP-2 captions from JPEG files: our captioner against Data-Juicer's ``image_captioning_mapper``, in one run.

    python speed/captions.py [--rows 2048] [--batch 256] [--peer-rows 24] [--tiny]

Weights are random, of the size of BLIP-2 with OPT-2.7b, in bfloat16 for our captioner and float32 for Data-Juicer's
operator, which samples. The operator runs row by row, its default, and in batches of 8. Random weights never end a
caption, so both write exactly ``--new-tokens``. Images are generated JPEG files of about 400 × 370 at 40 KB. Prints one
line of JSON. With ``--tiny`` the model is tiny, and the figures only show the overhead around the model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_scores import write_rows

import bettersynth_assets  # noqa: F401 (first: makes transformers usable with a torch without CUDA)
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.sandbox import operator_environment, registry
from toolkit.tokens import kit_text

IMAGE_TOKEN = 50265  # Data-Juicer's operator sets it and ignores the checkpoint's id
VOCABULARY = 50304
OPT: dict[str, Any] = {
    "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "word_embed_proj_dim": 2560, "max_position_embeddings": 2048,
}  # fmt: skip
TINY: dict[str, Any] = {
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "image_size": 224, "patch_size": 14},
    "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "encoder_hidden_size": 32},
    "text_config": {**OPT, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "word_embed_proj_dim": 32},
}  # fmt: skip


def write_model(folder: Path, device: str, *, tiny: bool) -> None:
    """Write a BLIP-2 checkpoint with random weights and a tokenizer with one token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        PreTrainedTokenizerFast,
    )

    words = {f"w{number}": number for number in range(VOCABULARY)}
    words = {token: number for token, number in words.items() if number not in (1, 2, 3, IMAGE_TOKEN)}
    words |= {"<pad>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE_TOKEN}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", bos_token="</s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    config = Blip2Config(**(TINY if tiny else {"text_config": OPT}), image_token_index=IMAGE_TOKEN, num_query_tokens=32)
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        with torch.device(device):
            model = Blip2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(dtype_before)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 1
    model.save_pretrained(folder)
    Blip2Processor(
        BlipImageProcessor(size={"height": 224, "width": 224}), tokenizer, num_query_tokens=32
    ).save_pretrained(folder)


def toolkit_captions(
    model: Path, paths: list[Path], device: str, dtype: str, batch: int, new_tokens: int
) -> dict[str, Any]:
    """Measure captions per second from files, after a warm-up batch."""
    captioner = Blip2Captioner(str(model), device=device, dtype=dtype, batch=batch)
    decode = "pillow" if device == "cpu" else "nvjpeg"

    def caption(files: list[Path]) -> list[str]:
        captions = []
        for chunk in chunks(files, batch, [captioner.prepare], decode=decode, device=device):
            captions += captioner.captions(chunk.inputs[0], max_new_tokens=new_tokens)
        return captions

    caption(paths[:batch])
    start = time.perf_counter()
    first = caption(paths)
    seconds = time.perf_counter() - start
    return {"captions_per_s": round(len(paths) / seconds, 2), "again_the_same": caption(paths[:batch]) == first[:batch]}


@contextmanager
def tokens(model: Any, count: int) -> Iterator[None]:
    """Make a model write ``count`` tokens, regardless of the requested number: Data-Juicer's operator asks for 128."""
    original = model.generate
    model.generate = lambda **kwargs: original(**{**kwargs, "max_new_tokens": count})
    try:
        yield
    finally:
        model.generate = original


def data_juicer(model: Path, paths: list[Path], device: str, at_once: int, new_tokens: int) -> float:
    """Measure captions per second of Data-Juicer's operator."""
    from data_juicer.utils.model_utils import get_model

    on_gpu = device.startswith("cuda")
    operator = registry().modules["image_captioning_mapper"](
        hf_img2seq=str(model), keep_original_sample=False, gpu_batch_size=at_once,
        accelerator="cuda" if on_gpu else "cpu",
    )  # fmt: skip
    rank = 0 if on_gpu else None
    loaded, _ = get_model(operator.model_key, rank, on_gpu)

    def caption(files: list[Path]) -> None:
        text = kit_text("a")
        operator.process_batched({"text": [text] * len(files), "images": [[str(path)] for path in files]}, rank=rank)

    with operator_environment(), tokens(loaded, new_tokens):
        caption(paths[:at_once])
        start = time.perf_counter()
        for first in range(0, len(paths), at_once):
            caption(paths[first : first + at_once])
        return len(paths) / (time.perf_counter() - start)


def main() -> None:
    """Run the command; see the module docstring."""
    import torch

    parser = argparse.ArgumentParser(description="BLIP-2 captions per second, ours against Data-Juicer's operator.")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--peer-rows", type=int, default=24, help="rows for Data-Juicer's operator; 0 skips it")
    parser.add_argument("--tiny", action="store_true", help="tiny model, only to try the command")
    args = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as root:
        model = Path(root, "blip2")
        write_model(model, device, tiny=args.tiny)
        paths, _ = write_rows(Path(root, "images"), args.rows)
        dtype = "bfloat16" if device != "cpu" else "float32"
        result: dict[str, Any] = {
            "model": "tiny" if args.tiny else "blip2-opt-2.7b",
            "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
            "cores": len(os.sched_getaffinity(0)),
            "batch": args.batch,
            "new_tokens": args.new_tokens,
            **toolkit_captions(model, paths, device, dtype, args.batch, args.new_tokens),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device != "cpu" else None,
        }
        for at_once in (1, 8) * bool(args.peer_rows):
            rate = data_juicer(model, paths[: args.peer_rows], device, at_once, args.new_tokens)
            result |= {f"data_juicer_{at_once}_captions_per_s": round(rate, 2)}
            result |= {f"ratio_to_data_juicer_{at_once}": round(result["captions_per_s"] / rate, 1)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
