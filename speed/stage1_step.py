"""Gain of each optimisation of the stage-1 step: forward and backward on one GPU, at the size of MGM-2B.

    python speed/stage1_step.py [--batch 32] [--steps 8] [--tiny] [--profile] [--only auto reference]

Random weights, images created on the GPU, captions of about 20 tokens. Prints a line of JSON per variant with samples/s
and peak GiB: the fastest one, the fastest with one switch disabled at a time, and the original code path at its
micro-batch of 8. ``speed/training.py`` measures whole training steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import Any

import torch
from random_model import random_model

from toolkit.data.conversation import IGNORE_INDEX
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.common.speed import GPU, REFERENCE
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.language.merging import lay_out
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.tiny import tiny_config

REFERENCE_BATCH = 8
WORDS = 45


def build(config: MGMConfig, device: str) -> MGMGemmaForCausalLM:
    """Build a model with random weights as in pre-training: bfloat16, trained parameters in float32."""
    model = random_model(config, device=device)
    model.requires_grad_(False)
    for part in model.model.projector_modules():
        part.float().requires_grad_(True)
    return model.train()


def make_batch(config: MGMConfig, rows: int, device: str, seed: int) -> dict[str, Any]:
    """Build rows of about ``WORDS`` tokens with one image, half of the tokens labelled."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, config.vocab_size, (rows, WORDS), generator=generator)
    ids[:, 5] = IMAGE_TOKEN_INDEX
    labels = ids.clone()
    labels[:, : WORDS - 20] = IGNORE_INDEX
    mask = torch.ones_like(ids)
    layout = lay_out(ids, mask, labels, image_tokens=config.image_tokens)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels, "layout": layout}
    for name, side in (("images", config.image_size), ("images_aux", config.image_size_aux)):
        batch[name] = torch.randn(rows, 3, side, side, generator=generator).to(torch.bfloat16)
    batch["loss_weights"] = torch.full((rows,), 1 / rows / 20)
    return {
        k: {n: t.to(device) for n, t in v.items()} if isinstance(v, dict) else v.to(device) for k, v in batch.items()
    }


def measure(model: MGMGemmaForCausalLM, batches: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Median time of a forward and backward pass after two warm-up rounds over the batches."""
    on_gpu = model.device.type == "cuda"
    start = time.monotonic()
    for batch in batches * 2:
        model(**batch).loss.backward()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    warm_up = time.monotonic() - start
    times = []
    for step in range(steps):
        start = time.monotonic()
        loss = model(**batches[step % len(batches)]).loss
        loss.backward()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    model.zero_grad()
    rows, middle = len(batches[0]["input_ids"]), sorted(times)[len(times) // 2]
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return {
        "batch": rows, "loss": round(float(loss.detach()), 4), "samples_per_s": round(rows / middle, 2),
        "peak_gib": round(peak, 2), "warm_up_s": round(warm_up, 1),
    }  # fmt: skip


def variants() -> dict[str, Any]:
    """Return the switches by name of the variant."""
    variants_by_name: dict[str, Any] = {"auto": GPU}
    for field in dataclasses.fields(GPU):
        flipped = {field.name: not getattr(GPU, field.name)}
        if field.name == "fused_decoder":
            flipped["labelled_last_layer"] = False
        variants_by_name[f"{field.name}={flipped[field.name]}"] = dataclasses.replace(GPU, **flipped)
    return variants_by_name | {"reference": REFERENCE}


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="tiny model on the CPU, only to try the command")
    parser.add_argument("--profile", action="store_true", help="profile the first variant")
    parser.add_argument("--only", nargs="*", default=list(variants()))
    args = parser.parse_args()
    device, config = ("cpu", tiny_config()) if args.tiny else ("cuda", MGMConfig())
    model = build(config, device)
    sizes = {"reference": REFERENCE_BATCH}
    for name in args.only:
        speed = variants()[name]
        if args.tiny:
            speed = dataclasses.replace(speed, compiled=False, depthwise_kernel=False)
        model.set_speed(dataclasses.asdict(speed))
        batches = [make_batch(config, sizes.get(name, args.batch), device, seed) for seed in (1, 2)]
        print(json.dumps({"variant": name, **measure(model, batches, args.steps)}), flush=True)
        if args.profile and name == args.only[0]:
            with torch.profiler.profile() as profile:
                model(**batches[0]).loss.backward()
            key = "self_cpu_time_total" if args.tiny else "self_cuda_time_total"
            print(profile.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90))
        del batches
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
