"""LLaVA-1.5 captions from JPEG files: our captioner against Data-Juicer's ``mllm_mapper`` and vLLM, in one run.

    python speed/llava_captions.py [--rows 512] [--batch 64] [--new-tokens 40] [--peer-rows 12] [--tiny]
        [--vllm "/path/to/its/environment/bin/vllm [option …]"] [--at-once 256]

Weights are random, of the size of LLaVA-1.5-7B, in bfloat16 for our captioner on a GPU. Data-Juicer's operator runs row
by row, samples, and loads float32. Our captioner is measured three times: with CUDA graphs, greedy and sampling, and
through transformers' ``generate`` in batches, greedy. With ``--vllm`` vLLM serves the same checkpoint too, called
through ``ServedCaptioner`` with the given number of concurrent requests. Random weights never end a caption: all write
exactly ``--new-tokens``. Images are generated JPEG files of about 400 × 370 at 40 KB. Prints a line of JSON. With
``--tiny`` the model is tiny, and the figures only show the overhead around the model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captions import tokens
from clip_scores import write_rows
from vllm_server import served

import bettersynth_assets  # noqa: F401 (first: makes transformers usable with a torch without CUDA)
from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.captioners.captioner import Captioner
from bettersynth_assets.models.captioners.llava import PROMPT, LlavaCaptioner
from bettersynth_assets.models.captioners.served import ServedCaptioner
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.sandbox import operator_environment, registry

VOCABULARY = 32064
IMAGE_TOKEN, PAD = 32000, 32001
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: <image>\n"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{% endfor %} ASSISTANT:"
)
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_model(folder: Path, device: str, *, tiny: bool) -> None:
    """Write a LLaVA-1.5 checkpoint with random weights and a tokenizer with one token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = {f"w{number}": number for number in range(VOCABULARY) if number not in (0, 1, 2, IMAGE_TOKEN, PAD)}
    plain = Tokenizer(
        models.WordLevel(words | {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": IMAGE_TOKEN, "<pad>": PAD}, "<unk>")
    )
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"], padding_side="left", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = CLIPVisionConfig(**(SMALL if tiny else tower), image_size=336, patch_size=14)
    language = LlamaConfig(**(SMALL if tiny else {}), vocab_size=VOCABULARY, max_position_embeddings=4096)
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        with torch.device(device):
            model = LlavaForConditionalGeneration(
                LlavaConfig(vision_config=vision, text_config=language, image_token_index=IMAGE_TOKEN)
            )
    finally:
        torch.set_default_dtype(dtype_before)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.generation_config.do_sample = True  # Data-Juicer's operator sets only a temperature
    model.save_pretrained(folder)
    crop = {"height": 336, "width": 336}
    image_processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=crop)
    LlavaProcessor(
        image_processor, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip


def project_captions(captioner: Captioner, paths: list[Path], decode: str, **how: Any) -> tuple[float, list[str]]:
    """Measure captions per second from files after a warm-up batch; also return the captions."""
    size = captioner.batch.requested

    def caption(files: list[Path]) -> list[str]:
        generated = []
        for chunk in chunks(files, size, [captioner.prepare], decode=decode, device=captioner.device):
            keys = {"keys": [str(at) for at in chunk.good]} if "sampling" in how else {}
            generated += captioner.captions(chunk.inputs[0], prompt=captioner.default_prompt, **how, **keys)
        return generated

    caption(paths[:size])
    start = time.perf_counter()
    captions = caption(paths)
    return len(paths) / (time.perf_counter() - start), captions


def by_generate(captioner: LlavaCaptioner) -> Callable[..., Any]:
    """Return a replacement for the captioner's decoding loop that calls transformers' ``generate``."""

    def tokens(pixels: Any, row: Any, *how: Any) -> Any:
        return captioner._generated_tokens(pixels, row, *how)[:, len(row) :]

    return tokens


def data_juicer(model: Path, paths: list[Path], device: str, new_tokens: int) -> float:
    """Measure captions per second of Data-Juicer's operator, after a first row that loads the model."""
    from data_juicer.utils.model_utils import get_model

    on_gpu = device.startswith("cuda")
    operator = registry().modules["mllm_mapper"](
        hf_model=str(model), max_new_tokens=new_tokens, accelerator="cuda" if on_gpu else "cpu"
    )
    rank = 0 if on_gpu else None
    loaded, _ = get_model(operator.model_key, rank, on_gpu)
    with operator_environment(), tokens(loaded, new_tokens):
        operator.process_single({"text": PROMPT, "images": [str(paths[0])]}, rank=rank)
        start = time.perf_counter()
        for path in paths:
            operator.process_single({"text": PROMPT, "images": [str(path)]}, rank=rank)
        return len(paths) / (time.perf_counter() - start)


def main() -> None:
    """Run the command; see the module docstring."""
    import torch

    parser = argparse.ArgumentParser(description="LLaVA captions per second, ours against Data-Juicer's operator.")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--peer-rows", type=int, default=12, help="rows for Data-Juicer's operator")
    parser.add_argument("--vllm", help="vLLM's program, and options for `serve`")
    parser.add_argument("--at-once", type=int, default=256, help="concurrent requests to vLLM")
    parser.add_argument("--tiny", action="store_true", help="tiny model, only to try the command")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device, dtype, decode = ("cuda:0", "bfloat16", "nvjpeg") if on_gpu else ("cpu", "float32", "pillow")
    with tempfile.TemporaryDirectory() as root:
        model = Path(root, "llava")
        write_model(model, device, tiny=args.tiny)
        paths, _ = write_rows(Path(root, "images"), args.rows)
        captioner: Any = LlavaCaptioner(str(model), device=device, dtype=dtype, batch=args.batch)
        rate, captions = project_captions(captioner, paths, decode, max_new_tokens=args.new_tokens)
        drawn, _ = project_captions(captioner, paths, decode, max_new_tokens=args.new_tokens, sampling=Sampling())
        captioner._decoded_tokens = by_generate(captioner)
        plain, by_loop = project_captions(captioner, paths, decode, max_new_tokens=args.new_tokens)
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None
        del captioner
        gc.collect()
        torch.cuda.empty_cache()
        extra: dict[str, Any] = {}
        if args.vllm:
            with served(args.vllm, model, args.at_once) as address:
                captioner = ServedCaptioner(address, batch=args.at_once)
                speed, by_vllm = project_captions(captioner, paths, "pillow", max_new_tokens=args.new_tokens)
            extra["captions_per_s_by_vllm"] = round(speed, 2)
            extra["same_captions_by_vllm"] = sum(a == b for a, b in zip(captions, by_vllm, strict=True))
        peer = data_juicer(model, paths[: args.peer_rows], device, args.new_tokens)
    result = {
        "model": "tiny" if args.tiny else "llava-1.5-7b",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "batch": args.batch,
        "new_tokens": args.new_tokens,
        "captions_per_s": round(rate, 2),
        "captions_per_s_with_sampling": round(drawn, 2),
        "captions_per_s_by_generate": round(plain, 2),
        "same_captions_by_generate": sum(a == b for a, b in zip(captions, by_loop, strict=True)),
        "rows": len(paths),
        "peak_gib": peak,
        "data_juicer_captions_per_s": round(peer, 2),
        "ratio_to_data_juicer": round(rate / peer, 1),
    }
    print(json.dumps(result | extra))


if __name__ == "__main__":
    main()
