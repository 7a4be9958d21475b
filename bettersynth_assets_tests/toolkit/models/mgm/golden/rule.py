"""Inputs shared by both sides of the parity test: sizes, weights, batches, images and rows. numpy and Pillow only.

Weights depend only on a parameter's name and shape, so neither side needs a copy of the other's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from PIL import Image

GEMMA: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2, "hidden_act": "gelu",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 42,
    "patch_size": 14, "projection_dim": 16,
}  # fmt: skip
CONVNEXT: dict[str, Any] = {"depths": [1, 1, 2, 1], "dims": [4, 6, 8, 10]}
IMAGE_SIZE, IMAGE_SIZE_AUX, TOKENS = 42, 96, 9
"""Pixels of both inputs; 3×3 tokens, each with a window of 8×8 cells, as in MGM-2B."""

IMAGE, IGNORE = -200, -100
LENGTHS, TEXT_ONLY = (12, 20, 9, 16), 2
"""Ids of the four rows; row 2 has no picture."""


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 weight of a parameter: matrices preserve the scale of activations, gains are near 1."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return np.asarray(drawn / np.float32(np.sqrt(np.prod(shape[1:]))), dtype=np.float32)
    # Gemma's norms multiply by 1 + weight; biases start near 0 too.
    gemma_norm = name.startswith(("model.layers.", "model.norm."))
    near = 0.0 if name.endswith("bias") or gemma_norm else 1.0
    return np.asarray(near + 0.1 * drawn, dtype=np.float32)


def batch() -> dict[str, np.ndarray]:
    """``input_ids``, ``labels``, ``attention_mask`` (4, 20), right-padded; ``images``, ``images_aux`` per row.

    The text-only row has images of zeros, which the original expects in its place.
    """
    rng = np.random.default_rng(2024)
    ids = np.zeros((len(LENGTHS), max(LENGTHS)), dtype=np.int64)
    labels = np.full_like(ids, IGNORE)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = rng.integers(6, GEMMA["vocab_size"], length)
        ids[row, 0] = GEMMA["bos_token_id"]
        labels[row, length // 2 : length] = ids[row, length // 2 : length]
        if row != TEXT_ONLY:
            ids[row, 2 + row] = IMAGE
    labels[1, 14] = IGNORE  # a hole, as between the turns of a conversation
    images = rng.standard_normal((len(LENGTHS), 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    aux = rng.standard_normal((len(LENGTHS), 3, IMAGE_SIZE_AUX, IMAGE_SIZE_AUX)).astype(np.float32)
    images[TEXT_ONLY], aux[TEXT_ONLY] = 0, 0
    mask = np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "images": images, "images_aux": aux}


NEW_TOKENS = 12


def prompts() -> dict[int, np.ndarray]:
    """Return the part before the labels of each row with an image, for greedy decoding."""
    ids = batch()["input_ids"]
    return {row: ids[row, : length // 2] for row, length in enumerate(LENGTHS) if row != TEXT_ONLY}


def pictures() -> dict[str, Image.Image]:
    """Return images of unusual shapes and colour modes: waves with noise, equal on every machine."""
    sizes = {
        "portrait": (337, 500), "landscape": (501, 336), "square": (400, 400), "tiny": (5, 7), "strip": (900, 20),
        "large": (1500, 1100), "exact": (768, 768),
    }  # fmt: skip
    made = {name: Image.fromarray(_pixels(size, 3)) for name, size in sizes.items()}
    made["greyscale"] = Image.fromarray(_pixels((350, 410), 1)[..., 0])
    made["rgba"] = Image.fromarray(_pixels((350, 410), 4), "RGBA")
    made["cmyk"] = Image.fromarray(_pixels((410, 350), 4), "CMYK")
    palette = Image.fromarray(_pixels((360, 340), 1)[..., 0], "P")
    palette.putpalette([(7 * i + 50 * c) % 256 for i in range(256) for c in range(3)])
    return {**made, "palette": palette}


def three_high() -> Image.Image:
    """Return an image with as many rows as channels."""
    return Image.fromarray(_pixels((40, 3), 3))


def _pixels(size: tuple[int, int], channels: int) -> np.ndarray:
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((x * (c + 1) + y * 2) / 23 + c) for c in range(channels)]
    noise = np.random.default_rng(width * height).integers(-20, 21, (height, width, channels))
    return np.asarray((np.stack(waves, axis=-1) + noise).clip(0, 255), dtype=np.uint8)


REAL = (
    "images/00609/006092514.jpg", "images/00195/001952774.jpg", "ALLaVA-4V/allava_laion/images/24529.jpeg",
    "ALLaVA-4V/allava_laion/images/48153.jpeg", "images/00309/003093015.jpg", "images/00262/002629237.jpg",
    "images/00268/002680167.jpg",
)  # fmt: skip
"""Real rows: landscape, portrait, two progressive files, one over 768, greyscale, greyscale over 768."""
