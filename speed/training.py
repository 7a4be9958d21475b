"""Training end to end, from JPEG files on disk to weights, at MGM-2B's size: ours against the original code path.

    python speed/training.py [--stage pretrain] [--steps 12] [--reference-steps 4] [--workers 8] [--tiny]

Both run ``python -m toolkit.training.run`` on the same rows, images and random weights. The original code path is speed
``reference`` (checkpointing, full bfloat16 logits, eager towers with DropPath) at its micro-batch of 8. The first two
steps (compilation, first images) are ignored. The loader is also measured alone. Prints lines of JSON; the last one has
the ratio. Images are about 400 × 370 at 35 KB, captions about 20 tokens of a byte tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from random_model import random_model

from toolkit.data.collator import Collator
from toolkit.data.exposures import Exposures
from toolkit.data.llava import read_llava
from toolkit.data.order import exposure_order
from toolkit.data.rows import encode_rows
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_config
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.tokens import with_image

PHASES: dict[str, dict[str, Any]] = {
    "pretrain": {"trained": "projector", "image_aspect": "square", "global_batch": 256, "learning_rate": 1e-3},
    "finetune": {
        "trained": "projector+llm", "image_aspect": "pad", "global_batch": 128, "learning_rate": 2e-5,
        "group_by_modality_length": True,
    },
}  # fmt: skip
OURS = {"pretrain": 32, "finetune": 16}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIRST_STEP = 3


def write_data(root: Path, phase: str, rows: int, images: int = 512) -> None:
    """Write JPEG files and a LLaVA JSON: one short caption per row, or a few longer turns for fine-tuning."""
    draw = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(images):
        width, height = int(draw.integers(336, 470)), int(draw.integers(336, 410))
        coarse = draw.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = pixels + draw.normal(0, 13, pixels.shape).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"images/{number}.jpg", quality=80)

    def words(mean: float, deviation: float) -> str:
        return "".join(draw.choice(list(LETTERS), max(3, int(draw.normal(mean, deviation)))))

    records = []
    for number in range(rows):
        turns = []
        for turn in range(1 if phase == "pretrain" else int(draw.integers(1, 5))):
            question = words(8, 2) if phase == "pretrain" else words(16, 6)
            answer = words(17, 5) if phase == "pretrain" else words(60, 30)
            turns += [
                {"from": "human", "value": question if turn else with_image(question)},
                {"from": "gpt", "value": answer},
            ]
        records.append({"id": str(number), "image": f"{number % images}.jpg", "conversations": turns})
    (root / "data.json").write_text(json.dumps(records))


def write_base(folder: Path, config: MGMConfig) -> None:
    """Write a checkpoint with random weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random_model(config, device=device).save_pretrained(folder)
    MGMProcessor.for_config(config, tiny_tokenizer()).save_pretrained(folder)


def original_base(folder: Path, target: Path) -> None:
    """Write the same checkpoint, with logits and tower computed as in the original."""
    target.mkdir()
    for file in folder.iterdir():
        os.link(file, target / file.name)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps({**config, "aux_drop_path": "always", "logits_dtype": "bfloat16"}))


def loader_rate(root: Path, phase: str, batch: int, workers: int, seconds: float) -> float:
    """Measure images per second of the loader alone."""
    processor = MGMProcessor.from_pretrained(root / "base")
    rows = encode_rows(read_llava(root / "data.json", root / "images"), processor)
    order = exposure_order(len(rows), len(rows) // 256, 256, 0)
    exposures = Exposures(rows, order, global_batch=256, per_device_batch=batch, processes=1, group=8)
    collator = Collator(processor=processor, aspect=PHASES[phase]["image_aspect"])
    loader = torch.utils.data.DataLoader(
        exposures, batch_size=batch, num_workers=workers, collate_fn=collator, prefetch_factor=4 if workers else None
    )
    batches, loaded = iter(loader), 0
    for _ in range(2 * max(1, workers)):
        next(batches)
    start = time.monotonic()
    for loaded_batch in batches:
        loaded += len(loaded_batch["sample_ids"])
        if time.monotonic() - start > seconds:
            break
    return loaded / (time.monotonic() - start)


def train(
    root: Path, name: str, phase: str, steps: int, batch: int, speed: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """Run the trainer; return the median rate of its later steps."""
    base = root / ("base" if name == "ours" else "original")
    values = {**PHASES[phase], "name": phase, "data": str(root / "data.json"), "images": str(root / "images")}
    values |= {"per_device_batch": batch, "loss_group": 8, "max_steps": steps}
    values |= {"workers": args.workers, "pad_multiple": 8}
    if name == "reference" and args.deepspeed:
        values["deepspeed"] = "toolkit/training/deepspeed/zero2.json"
    device, dtype = ("cpu", "float32") if args.tiny else ("cuda", "bfloat16")
    plan = {
        "base_model": str(base), "output_dir": str(root / name), "seed": 0, "dtype": dtype, "device": device,
        "speed": speed, "log_every": 1, "stages": [values],
    }  # fmt: skip
    (root / f"{name}.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "toolkit.training.run", str(root / f"{name}.json")]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    events = []
    for line in child.stdout:
        events.append(json.loads(line))
        if args.verbose:
            print(line, end="", flush=True)
        if events[-1]["event"] == "step" and events[-1]["step"] == steps and not args.whole:
            child.kill()  # the checkpoint is not needed
            break
    child.wait()
    steps_done = [event for event in events if event["event"] == "step"]
    if len(steps_done) < steps:
        raise SystemExit(f"{name} ended after {len(steps_done)} of {steps} steps: {events[-1:]}")
    rates = [event["samples_per_s"] for event in steps_done[FIRST_STEP - 1 :]]
    return {
        "way": name, "stage": phase, "micro_batch": batch, "samples_per_s": round(statistics.median(rates), 2),
        "slowest": min(rates), "fastest": max(rates), "peak_gib": steps_done[-1].get("peak_gib"),
        "first_and_last_loss": [steps_done[0]["loss"], steps_done[-1]["loss"]],
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=PHASES, default="pretrain")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--reference-steps", type=int, default=4)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--loader-seconds", type=float, default=12.0)
    parser.add_argument("--deepspeed", action="store_true", help="run the original code path under DeepSpeed's ZeRO-2")
    parser.add_argument("--tiny", action="store_true", help="tiny model on the CPU, only to try the command")
    parser.add_argument("--root", type=Path, help="folder for weights and data, kept for later runs")
    parser.add_argument("--whole", action="store_true", help="also wait for the checkpoint")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    batch = args.batch or OURS[args.stage]
    root = args.root or Path(tempfile.mkdtemp())
    try:
        for name in ("images", "ours", "reference"):
            shutil.rmtree(root / name, ignore_errors=True)
        root.mkdir(exist_ok=True)
        write_data(root, args.stage, rows=256 * max(args.steps, 8))
        if not (root / "original/config.json").exists():
            write_base(root / "base", tiny_config() if args.tiny else MGMConfig())
            original_base(root / "base", root / "original")
        size = statistics.mean(file.stat().st_size for file in (root / "images").iterdir())
        rate = loader_rate(root, args.stage, batch, args.workers, args.loader_seconds)
        print(
            json.dumps({"loader_images_per_s": round(rate, 1), "workers": args.workers, "jpeg_bytes": round(size)}),
            flush=True,
        )
        ours_result = train(root, "ours", args.stage, args.steps, batch, "auto", args)
        print(json.dumps(ours_result), flush=True)
        reference_result = train(root, "reference", args.stage, args.reference_steps, 8, "reference", args)
        print(json.dumps(reference_result), flush=True)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(
            json.dumps(
                {"ratio": round(ours_result["samples_per_s"] / reference_result["samples_per_s"], 3), "device": device}
            )
        )
    finally:
        if args.root is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
