"""A small LLaVA set with images, and the processor of a tiny MGM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_config
from toolkit.models.tiny_tokenizer import tiny_tokenizer

PROCESSOR = MGMProcessor.for_config(tiny_config(), tiny_tokenizer())


def write_rows(folder: Path, pictures: int = 3, text_only: int = 1) -> Path:
    """Write a small LLaVA set with images in ``folder/images``."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(pictures):
        values = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": f"number {number}"}]
        rows.append({"id": f"p{number}", "image": f"{number}.png", "conversations": turns})
    for number in range(text_only):
        turns = [{"from": "human", "value": "Say a word"}, {"from": "gpt", "value": "word" * (number + 1)}]
        rows.append({"id": f"t{number}", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"
