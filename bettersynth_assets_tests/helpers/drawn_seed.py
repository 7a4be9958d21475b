"""A generated seed file with the properties of the contest's rows, for tests that must not depend on real rows.

48 rows in the kit's format: JPEG files of 336 to 900 pixels a side, RGB and grey, baseline and progressive; captions of
1 to 21 words (3 to 23 with the kit's two tokens), some not ASCII, one long and Chinese under an ``allava_laion`` id;
ids of nine digits in folders of their first five; one image and caption that occur twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROWS = 48
GREY = {5, 17, 29}
PROGRESSIVE = {7, 31}
CHINESE = 40
TWIN = 47
"""Has the image and the caption of row 0."""
SIDES = ((336, 336), (336, 447), (448, 336), (504, 336), (336, 600), (900, 336), (336, 769), (640, 480))
WORDS = (
    *("a", "small", "red", "boat", "and", "two", "green", "birds", "on", "the", "old", "café", "table", "by", "naïve"),
    *("Zoë", "near", "南", "山", "house", "with", "3", "windows"),
)
LONG = "这幅画展示了一间古老的书房，中心是一张大书桌，桌面上放着一些纸张和一支羽毛笔。" + "窗外有一个花园。" * 3


def caption(number: int) -> str:
    """Return a caption: row 0 has 1 word, row 1 has 2, and so on to 21, then from 1 again."""
    if number == CHINESE:
        return LONG
    number = 0 if number == TWIN else number
    count = number % 21 + 1
    return " ".join(WORDS[(number + place) % len(WORDS)] for place in range(count))


def row(number: int) -> dict[str, Any]:
    """Return a row as the kit writes it."""
    name = f"{2563000 + 4099 * number:09d}"
    image = f"images/{name[:5]}/{name}.jpg"
    if number == CHINESE:
        name, image = "allava_laion_cap_24529", "ALLaVA-4V/allava_laion/images/24529.jpeg"
    return {"id": name, "text": f"<__dj__image>\n{caption(number)} <|__dj__eoc|>", "images": [image]}


def draw(number: int) -> Image.Image:
    """Return a gradient with three shapes."""
    number = 0 if number == TWIN else number
    width, height = SIDES[number % len(SIDES)]
    across = np.linspace(0, 255, width)[None, :, None] * np.array([1.0, 0.6, 0.2])
    down = np.linspace(0, 255, height)[:, None, None] * np.array([0.1, 0.5, 0.9])
    image = Image.fromarray(((across + down) / 2 + number).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in range(3):
        left, top = (97 * (number + shape)) % (width - 120), (61 * (number + 2 * shape)) % (height - 120)
        pen.ellipse((left, top, left + 100, top + 80), fill=(40 * shape + 60, (number * 37) % 256, 200 - 50 * shape))
    return image.convert("L") if number in GREY else image


def write_drawn_seed(root: Path) -> Path:
    """Write rows and images; return the path of the seed file."""
    for number in range(ROWS):
        path = root / row(number)["images"][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(path, "JPEG", quality=90, progressive=number in PROGRESSIVE)
    seed = root / "mgm_pretrain_stage_1.jsonl"
    lines = (json.dumps(row(number), ensure_ascii=False) + "\n" for number in range(ROWS))
    seed.write_text("".join(lines), encoding="utf-8")
    return seed
