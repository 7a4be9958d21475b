"""CLIP scores from JPEG files: our scorer against Data-Juicer's ``image_text_similarity_filter``, in one run.

    python speed/clip_scores.py [--model vit-b-32] [--rows 512] [--peer-rows 96] [--batch 64] [--tiny]
        [--ways float32 bfloat16 bfloat16+nvjpeg …] [--seed FILE]

Weights are random, of the named model's real size. Images are generated JPEG files of about 400 × 370 at 40 KB with
captions of about 20 tokens, or come from a seed file in the kit's format. All variants score the same files with the
same checkpoint. Data-Juicer's operator is called row by row, as by its own filter, after a first row that loads the
model. A variant is a dtype, optionally with ``+nvjpeg`` (files are decoded on the GPU) and ``+compiled``. Prints a line
of JSON: rows per second, ratios, the difference of the scores from float32 scores of files decoded by Pillow, and how
many rows cross the mean score because of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import string
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import bettersynth_assets  # noqa: F401 (first: makes transformers usable with a torch without CUDA)
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.sandbox import operator_environment, registry
from toolkit.preprocess.row_ids import caption_of
from toolkit.tokens import kit_text

SIZES: dict[str, dict[str, Any]] = {
    "vit-b-32": {
        "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                   "image_size": 224, "patch_size": 32},
        "text": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
        "projection": 512,
    },
    "vit-l-14-336": {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "image_size": 336, "patch_size": 14},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        "projection": 768,
    },
    "siglip-b-16": {
        "class": "siglip",
        "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                   "image_size": 224, "patch_size": 16},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
                 "projection_size": 768},
    },
    "tiny": {
        "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "image_size": 64, "patch_size": 16},
        "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        "projection": 16,
    },
}  # fmt: skip


def write_model(folder: Path, size: dict[str, Any]) -> None:
    """Write a transformers CLIP checkpoint with random weights and a tokenizer of letters."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    if size.get("class") == "siglip":
        write_siglip(folder, size)
        return
    folder.mkdir()
    letters = [*string.printable.strip(), *(f"{letter}</w>" for letter in string.printable.strip())]
    words = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        vision_config=size["vision"], text_config={**size["text"], **ends}, projection_dim=size["projection"]
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    torch.nn.init.constant_(model.logit_scale, math.log(100.0))  # as in every public CLIP; Data-Juicer relies on it
    model.save_pretrained(folder)
    side = size["vision"]["image_size"]
    image_processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)


def write_siglip(folder: Path, size: dict[str, Any]) -> None:
    """Write a SigLIP whose tokenizer makes one token per character and pads to 64."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    tokens = ["<unk>", "</s>", *string.printable.strip()]
    letters = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_max_length=64,
        model_input_names=["input_ids"],
    )  # fmt: skip
    ends = {"vocab_size": len(tokens), "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 1,
            "pad_token_id": 1}  # fmt: skip
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config={**size["text"], **ends}, vision_config=size["vision"])).save_pretrained(
        folder
    )
    side = size["vision"]["image_size"]
    SiglipProcessor(SiglipImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)


def write_rows(folder: Path, rows: int) -> tuple[list[Path], list[str]]:
    """Write at most 512 different JPEG files; return paths and captions of all rows."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(min(rows, 512)):
        width, height = int(draw.integers(336, 470)), int(draw.integers(336, 410))
        coarse = Image.fromarray(draw.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = pixels + draw.normal(0, 13, pixels.shape).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=80)
    letters = list(string.ascii_lowercase)
    captions = ["".join(draw.choice(letters, max(3, int(draw.normal(18, 5))))) for _ in range(rows)]
    return [folder / f"{number % 512}.jpg" for number in range(rows)], captions


def project_scores(model: Path, paths: list[Path], captions: list[str], batch: int, **options: Any) -> dict[str, Any]:
    """Score all rows; measure rows per second after two warm-up batches."""
    scorer = ClipScorer(str(model), batch=batch, **options)
    score_files(scorer, paths[: 2 * batch], captions[: 2 * batch])
    start = time.perf_counter()
    scored = score_files(scorer, paths, captions)
    return {"rows_per_s": len(paths) / (time.perf_counter() - start), "scores": scored.scores}


def data_juicer(model: Path, paths: list[Path], captions: list[str], device: str) -> dict[str, Any]:
    """Score with Data-Juicer's operator, row by row."""
    operator = registry().modules["image_text_similarity_filter"](
        hf_clip=str(model), accelerator="cuda" if device.startswith("cuda") else "cpu"
    )
    rank = 0 if device.startswith("cuda") else None

    def score(path: Path, caption: str) -> float:
        sample = {"text": kit_text(caption), "images": [str(path)], "__dj__stats__": {}}
        stats = operator.compute_stats_single(sample, rank=rank)["__dj__stats__"]
        return float(stats["image_text_similarity"][0])

    with operator_environment():
        score(paths[0], captions[0])
        start = time.perf_counter()
        scores = [score(path, caption) for path, caption in zip(paths, captions, strict=True)]
        seconds = time.perf_counter() - start
    return {"rows_per_s": len(paths) / seconds, "scores": np.asarray(scores, np.float32)}


def compared(scores: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, Any]:
    """Compare with the exact scores: differences, and rows on the other side of the exact mean."""
    mean = float(exact.mean(dtype=np.float64))
    return {
        "largest_difference": float(np.abs(scores - exact).max()),
        "rows_over_the_mean_that_change": int(((scores >= mean) != (exact >= mean)).sum()),
        "rows": len(exact),
    }


def read_rows(seed: Path, rows: int) -> tuple[list[Path], list[str]]:
    """Read images and captions of a seed file, repeating it if it has fewer rows."""
    kept = [json.loads(line) for line in seed.read_text(encoding="utf-8").splitlines()]
    kept = [kept[number % len(kept)] for number in range(rows)]
    texts = [caption_of(row["text"]) for row in kept]
    return [seed.parent / row["images"][0] for row in kept], texts


def main() -> None:
    """Run the command; see the module docstring."""
    import torch

    on_gpu = torch.cuda.is_available()
    gpu_ways = ["float32+nvjpeg", "bfloat16+nvjpeg", "bfloat16+nvjpeg+compiled"] if on_gpu else []
    parser = argparse.ArgumentParser(description="CLIP scores per second, ours against Data-Juicer's operator.")
    parser.add_argument("--model", choices=SIZES, default="vit-b-32")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--peer-rows", type=int, default=96, help="rows for Data-Juicer's operator; 0 skips it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--ways", nargs="+", default=["bfloat16", *gpu_ways], help="variants besides float32; see above"
    )
    parser.add_argument("--exact-rows", type=int, help="rows of the float32 variant, the reference of the others")
    parser.add_argument("--seed", type=Path, help="seed file in the kit's format, instead of generated images")
    parser.add_argument("--tiny", action="store_true", help="tiny model, only to try the command")
    args = parser.parse_args()
    device = "cuda:0" if on_gpu else "cpu"
    with tempfile.TemporaryDirectory() as root:
        model = Path(root, "clip")
        write_model(model, SIZES["tiny" if args.tiny else args.model])
        paths, captions = read_rows(args.seed, args.rows) if args.seed else write_rows(Path(root, "images"), args.rows)
        peer_count, exact_rows = min(args.peer_rows, args.rows), args.exact_rows or args.rows
        results = {}
        for variant in dict.fromkeys(["float32", *args.ways]):
            dtype, *extra = variant.split("+")
            options = {"decode": "nvjpeg" if "nvjpeg" in extra else "pillow", "compiled": "compiled" in extra}
            rows = exact_rows if variant == "float32" else args.rows
            results[variant] = project_scores(
                model, paths[:rows], captions[:rows], args.batch, dtype=dtype, device=device, **options
            )
        size = SIZES["tiny" if args.tiny else args.model]
        # Data-Juicer's operator uses CLIP's logits as scores; SigLIP's logits are not scores.
        has_peer = peer_count and "class" not in size
        peer = data_juicer(model, paths[:peer_count], captions[:peer_count], device) if has_peer else None
    exact = results["float32"]["scores"]
    result = {
        "model": "tiny" if args.tiny else args.model,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "batch": args.batch,
        "data_juicer_rows_per_s": peer and round(peer["rows_per_s"], 2),
        "float32_against_data_juicer": peer and compared(exact[:peer_count], peer["scores"]),
        "ways": {
            variant: {
                "rows_per_s": round(measured["rows_per_s"], 2),
                "ratio": peer and round(measured["rows_per_s"] / peer["rows_per_s"], 2),
                **compared(measured["scores"][:exact_rows], exact),
            }
            for variant, measured in results.items()
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
