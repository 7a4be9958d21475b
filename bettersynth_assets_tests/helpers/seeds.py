"""Tiny real seeds for tests. In: rows or raw lines. Out: a folder with a seed file and images, and its settings."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets_tests.helpers.paths import SHARED

REAL_SEED = SHARED / "better-synth-seed-800/mgm_pretrain_stage_1.jsonl"
"""800 real rows, research use only; the tests that want them are skipped where they are not."""


def picture(width: int = 40, height: int = 30, *, seed: int = 0) -> Image.Image:
    """Return random pixels, so that a rotated or partly read image differs from the original."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kit_row(number: int, caption: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row in the kit's format with the image ``images/NNN.jpg``."""
    text = f"<__dj__image>\n{caption or f'a picture of thing {number}'} <|__dj__eoc|>"
    return {"id": f"{number:03d}", "text": text, "images": [f"images/{number:03d}.jpg"], **changes}


def write_images(root: Path, numbers: range) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (root / f"images/{number:03d}.jpg").write_bytes(encoded(picture(seed=number)))


def write_lines(root: Path, lines: list[bytes | dict[str, Any]], *, name: str = "seed.jsonl") -> Path:
    """Write a seed file; dictionaries become JSON, bytes are written unchanged."""
    root.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path = root / name
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


def settings_for(seed: Path, data: Path, *, recipe: str = "third_place", **profile: Any) -> Settings:
    """Return settings of the miniature profile with another seed file and other values of the profile."""
    base = load_settings({"BETTERSYNTH_SEED": str(seed), "BETTERSYNTH_DATA": str(data)}, recipe=recipe)
    return replace(base, profile=base.profile.model_copy(update=profile))
