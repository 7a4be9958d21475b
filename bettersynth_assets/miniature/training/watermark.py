"""Trains the watermark classifier. In: bank. Out: a ``ViTForImageClassification`` whose label 1 is "watermark".

Data-Juicer's ``image_watermark_filter`` reads the softmax of logit 1 as the probability of a watermark.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from bettersynth_assets.miniature.training.bank import SQUASHED, load
from bettersynth_assets.miniature.training.loop import auc, held_out, on, train


def prepare(pixels: Tensor) -> Tensor:
    """(B, 112, 112, 3) uint8 -> (B, 3, 112, 112) in [-1, 1], like the saved image processor."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_watermark(
    bank: Path, folder: Path, *, steps: int, batch: int, device: str, random_seed: int
) -> dict[str, float]:
    """Train, save to the folder, and return precision, recall and AUC at probability 0.8 on held-out images."""
    torch.manual_seed(random_seed)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256, image_size=SQUASHED,
        patch_size=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label={0: "no watermark", 1: "watermark"}, label2id={"no watermark": 0, "watermark": 1},
    )  # fmt: skip
    model = on(ViTForImageClassification(config), device)
    pixels, marked = load(bank, "squashed", device), load(bank, "watermark", device)

    def loss_of(rows: Tensor) -> Tensor:
        return F.cross_entropy(model(prepare(pixels[rows])).logits.float(), marked[rows].long())

    train("watermark", [model], loss_of, rows=len(pixels), steps=steps, batch=batch, learning_rate=1e-3,
          device=device, random_seed=random_seed)  # fmt: skip
    model.eval()
    rows = torch.tensor(list(held_out(len(pixels))), device=device)
    with torch.no_grad():
        chance = torch.cat(
            [model(prepare(pixels[chunk])).logits.softmax(-1)[:, 1] for chunk in rows.split(256)]
        ).float()
    truth = marked[rows]
    predicted = chance >= 0.8
    true_positives = float((predicted & truth).sum())
    model.cpu().half().save_pretrained(folder)
    ViTImageProcessor(size={"height": SQUASHED, "width": SQUASHED}).save_pretrained(folder)
    return {
        "precision": true_positives / max(1.0, float(predicted.sum())),
        "recall": true_positives / max(1.0, float(truth.sum())),
        "auc": auc(chance[truth], chance[~truth]),
    }
