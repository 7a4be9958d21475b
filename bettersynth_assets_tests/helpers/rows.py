"""Small real rows for tests of operators and their stages: image files on disk and a table that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from bettersynth_assets.config.profile import Profile, load_profile
from bettersynth_assets.records.schema import SCORED, SEED
from tiny_models.profile_models import TinyModels

CAPTIONS = (
    "a red square on the left of a blue circle",
    "two dogs",
    "a small green circle under a large yellow square in the sky",
    "the cat sat on the mat and the dog looked at it from the other side of the room near the door by the window today",
    "red red red red red red red red red red red red red red",
)


def write_images(root: Path, count: int, *, side: int = 48, seed: int = 0) -> list[str]:
    """Write noise images of increasing width to ``root/images``; return their paths relative to ``root``."""
    rng = np.random.default_rng(seed)
    names = []
    (root / "images").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        names.append(f"images/{index:03d}.png")
        Image.fromarray(coarse).resize((side + index, side), Image.Resampling.NEAREST).save(root / names[-1])
    return names


def seed_table(root: Path, count: int = 20) -> pa.Table:
    """Return rows of schema ``SEED``; row i is 48 + i pixels wide and 48 high."""
    rows = [
        {
            "id": f"row{index:03d}", "line": index + 1, "image": name, "caption": CAPTIONS[index % len(CAPTIONS)],
            "width": 48 + index, "height": 48, "words": 0, "mode": "RGB", "format": "PNG",
            "bytes": (root / name).stat().st_size, "flags": [],
        }
        for index, name in enumerate(write_images(root, count))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SEED)


def scored_table(root: Path, count: int = 20) -> pa.Table:
    """Return rows of schema ``SCORED`` with scores 0.20, 0.21, ... in a shuffled order."""
    table = seed_table(root, count)
    scores = (0.2 + 0.01 * np.random.default_rng(1).permutation(count)).astype(np.float32)
    for name, column in (("clip_score", pa.array(scores)), ("text_truncated", pa.array([False] * count))):
        table = table.append_column(name, column)
    return table.cast(SCORED)


def tiny_profile(models: TinyModels, root: Path | None = None, **changes: object) -> Profile:
    """Return the miniature profile with tiny models and the seed file in ``root``."""
    profile = load_profile("miniature")
    named = {"clip": str(models.clip), "watermark": str(models.watermark), "captioner": str(models.captioner)}
    update: dict[str, object] = {"models": profile.models.model_copy(update=named), **changes}
    if root is not None:
        update["seed"] = str(root / "seed.jsonl")
    return profile.model_copy(update=update)


def break_pixels(root: Path, name: str) -> None:
    """Flip one byte of a PNG's pixels without changing header or length. A second call restores the file."""
    path = root / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def break_image(root: Path, name: str) -> None:
    """Cut a file in half."""
    path = root / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
