"""Images from captions by Stable Diffusion: our batches against Data-Juicer's ``image_diffusion_mapper``, in one run.

    python speed/regeneration.py [--rows 64] [--batch 16] [--dtype bfloat16] [--peer-rows 3] [--tiny]

Weights are random, of the size of Stable Diffusion 1.5 without its safety checker, 512 × 512, 40 steps with guidance:
as many as the operator computes (50, of which its strength of 0.8 leaves 40). The operator processes one row per call,
starts from the row's image and keeps float32, its default. Both times include writing the files. Prints a line of JSON.
With ``--tiny`` the model is tiny, and the figures only show the overhead around the model.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from clip_scores import SIZES, write_model, write_rows

import bettersynth_assets  # noqa: F401 (first: makes transformers usable with a torch without CUDA)
from bettersynth_assets.config.recipe import RegenerateSection
from bettersynth_assets.models.diffusion import ImageMaker, save_image
from bettersynth_assets.operators.sandbox import operator_environment, registry
from toolkit.tokens import KIT_IMAGE_TOKEN

STEPS = 40
FULL: dict[str, Any] = {
    "unet": {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
    "vae": {"sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
TINY: dict[str, Any] = {
    "unet": {"sample_size": 8, "block_out_channels": (8, 8, 8, 8), "cross_attention_dim": 32, "norm_num_groups": 4},
    "vae": {"sample_size": 64, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4},
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def write_pipeline(folder: Path, clip: Path, size: dict[str, Any]) -> Path:
    """Write a ``StableDiffusionPipeline`` with the tokenizer of a CLIP folder."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            **size["vae"], latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**size["text"], **ends)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**size["unet"], in_channels=4, out_channels=4, attention_head_dim=8),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def project_images(maker: ImageMaker, captions: list[str], folder: Path) -> float:
    """Measure images per second after a warm-up batch, written as by the recipe's section."""
    section = RegenerateSection(steps=STEPS, tries=1)
    keys = [str(number) for number in range(len(captions))]

    def make(count: int) -> None:
        for at, image in maker.images(captions[:count], keys[:count], section):
            save_image(image, folder / f"{at}.jpg")

    make(maker.batch.size)
    start = time.perf_counter()
    make(len(captions))
    return len(captions) / (time.perf_counter() - start)


def data_juicer(model: Path, paths: list[Path], captions: list[str], folder: Path, device: str) -> float:
    """Measure Data-Juicer's operator row by row, after a first row that loads the model."""
    operator = registry().modules["image_diffusion_mapper"](
        hf_diffusion=str(model), caption_key="caption", save_dir=str(folder), keep_original_sample=False,
        accelerator=device,
    )  # fmt: skip

    def make(path: Path, caption: str) -> None:
        samples = {"text": [KIT_IMAGE_TOKEN], "images": [[str(path)]], "caption": [caption]}
        operator.process(samples, **({} if device == "cpu" else {"rank": 0}))

    with operator_environment():
        make(paths[0], captions[0])
        start = time.perf_counter()
        for path, caption in zip(paths[1:], captions[1:], strict=True):
            make(path, caption)
        return (len(paths) - 1) / (time.perf_counter() - start)


def main() -> None:
    """Run the command; see the module docstring."""
    import torch

    parser = argparse.ArgumentParser(description="Generated images per second, ours against Data-Juicer's operator.")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--peer-rows", type=int, default=3, help="rows for Data-Juicer's operator")
    parser.add_argument("--tiny", action="store_true", help="tiny model, only to try the command")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_model(root / "clip", SIZES["tiny"])
        model = write_pipeline(root / "model", root / "clip", TINY if args.tiny else FULL)
        paths, captions = write_rows(root / "images", args.rows)
        (root / "made").mkdir()
        (root / "theirs").mkdir()
        maker = ImageMaker(str(model), device=device, dtype=args.dtype, batch=args.batch)
        results = {"rows_per_s": round(project_images(maker, captions, root / "made"), 3)}
        if args.peer_rows:
            peer_count = args.peer_rows + 1
            peer = data_juicer(model, paths[:peer_count], captions[:peer_count], root / "theirs", device)
            results |= {"data_juicer_rows_per_s": round(peer, 3), "ratio": round(results["rows_per_s"] / peer, 2)}
    where = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "steps": STEPS}
    print(json.dumps(vars(args) | where | {"cores": len(os.sched_getaffinity(0))} | results))


if __name__ == "__main__":
    main()
