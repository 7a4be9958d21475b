"""Trains the scoring CLIP: an OpenCLIP model that is good, not perfect.

In: bank. Out: ``open_clip_config.json``, ``open_clip_model.safetensors`` and a tokenizer, as a folder that
``open_clip.create_model_and_transforms("local-dir:…")`` loads; and the same weights as a transformers ``CLIPModel``.

Its input has 64 pixels, too few to read every sign, and one in ten of its training captions belongs to another image.
Scores therefore have a spread, and some hard mismatches score high, as with the real model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor

from bettersynth_assets.miniature.tokenizer import make_tokenizer
from bettersynth_assets.miniature.training.bank import load
from bettersynth_assets.miniature.training.loop import auc, held_out, train
from bettersynth_assets.miniature.training.towers import normalise
from toolkit.tensor_files import save_tensors

SIDE, WIDTH, SPACE = 64, 96, 64
WRONG_CAPTIONS = 0.1


def model_config(vocabulary: int) -> dict[str, Any]:
    """Return OpenCLIP's config of the model."""
    return {
        "embed_dim": SPACE,
        "vision_cfg": {"image_size": SIDE, "layers": 4, "width": WIDTH, "patch_size": 8, "head_width": 32},
        "text_cfg": {
            "context_length": 77, "vocab_size": vocabulary, "width": WIDTH, "heads": 3, "layers": 3,
            "hf_tokenizer_name": "./", "pool_type": "argmax",
        },
    }  # fmt: skip


def train_scorer(bank: Path, *, vocabulary: int, steps: int, batch: int, device: str, random_seed: int) -> CLIP:
    """Train on rich and poor captions; return the model in float32 on the CPU, in evaluation mode."""
    torch.manual_seed(random_seed)
    model = CLIP(**model_config(vocabulary)).to(device)
    pixels = load(bank, "square", device)
    ids = texts(bank, vocabulary, device)
    has_wrong_caption = (
        torch.rand(len(pixels), generator=torch.Generator().manual_seed(random_seed)).to(device) < WRONG_CAPTIONS
    )

    def loss_of(rows: Tensor) -> Tensor:
        shown = torch.where(has_wrong_caption[rows], rows.roll(1), rows)
        image, text = model(prepare(pixels[rows]), ids[shown, int(rows[0]) % 4])[:2]
        logits = (image @ text.T * model.logit_scale.exp().clamp(max=100)).float()
        target = torch.arange(len(rows), device=device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    train("scorer", [model], loss_of, rows=len(pixels), steps=steps, batch=batch, learning_rate=1e-3, device=device,
          random_seed=random_seed)  # fmt: skip
    return model.eval().cpu()


def prepare(pixels: Tensor) -> Tensor:
    """Resize (B, 192, 192, 3) uint8 to (B, 3, 64, 64), close to OpenCLIP's bicubic resize."""
    return F.avg_pool2d(normalise(pixels), 3)


def texts(bank: Path, vocabulary: int, device: str) -> Tensor:
    """Return (N, 4, L) ids: two rich and two poor captions from CLIP's tokenizer; L is the longest."""
    ids = torch.cat([load(bank, "rich", device), load(bank, "poor", device)], dim=1)
    real = (ids != 0).sum(-1, keepdim=True)
    ids = F.pad(ids, (1, 1))
    ids[..., 0] = make_tokenizer("clip").bos_token_id
    ids.scatter_(-1, real + 1, vocabulary - 1)
    return F.pad(ids, (0, 77 - ids.shape[-1]))


@torch.no_grad()
def measure(model: CLIP, bank: Path, vocabulary: int) -> dict[str, float]:
    """AUC of matching against other captions on held-out images, and mean and standard deviation of the scores."""
    pixels = load(bank, "square", "cpu")
    ids, rows = texts(bank, vocabulary, "cpu"), list(held_out(len(pixels)))[:1024]
    image = F.normalize(model.encode_image(prepare(pixels[rows])), dim=-1)
    figures: dict[str, float] = {}
    for name, k in (("rich", 0), ("poor", 2)):
        text = F.normalize(model.encode_text(ids[rows, k]), dim=-1)
        matching, mismatched = (image * text).sum(-1), (image * text.roll(1, 0)).sum(-1)
        figures |= {
            f"auc_{name}": auc(matching, mismatched),
            f"mean_{name}": float(matching.mean()),
            f"sd_{name}": float(matching.std()),
        }
    return figures


def save(model: CLIP, folder: Path, vocabulary: int) -> None:
    """Write the OpenCLIP folder with float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD),
                  "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
    described = {"model_cfg": model_config(vocabulary), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_tensors(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    make_tokenizer("clip").save_pretrained(folder)
