"""Renders scenes. In: a ``Scene`` and a size in pixels. Out: an RGB ``PIL.Image``; a pure function of its arguments.

The 3x3 grid fills the central square, so the centre crop of pre-training loses nothing. The rest is background.
"""

from __future__ import annotations

import functools
import math
import random

from PIL import Image, ImageDraw, ImageFont

from bettersynth_assets.miniature.world import COLORS, Scene, Sign, Thing

_BACKGROUNDS = ((240, 240, 235), (225, 235, 245), (235, 225, 215), (215, 230, 215), (200, 200, 205))
_WATERMARK_TEXTS = ("stock", "preview", "sample", "copyright")


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def render(scene: Scene, *, width: int, height: int, watermark: bool = False) -> Image.Image:
    """Render a scene.

    Args:
        scene: the scene; its ``look`` determines background, jitter and shades.
        width: pixels. height: pixels. The grid fills the central square of side ``min(width, height)``.
        watermark: overlay semi-transparent grey words and lines.
    """
    rng = random.Random(scene.look)
    image = Image.new("RGB", (width, height), rng.choice(_BACKGROUNDS))
    pen = ImageDraw.Draw(image)
    cell = min(width, height) / 3
    left, top = (width - 3 * cell) / 2, (height - 3 * cell) / 2
    for thing in scene.things:
        _draw_thing(pen, thing, rng, cell, left, top)
    for sign in scene.signs:
        _draw_sign(pen, sign, rng, cell, left, top)
    if watermark:
        _draw_watermark(image, rng, cell)
    return image


def _shade(color: str, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, value + rng.randint(-15, 15))) for value in COLORS[color])
    return red, green, blue


def _draw_thing(
    pen: ImageDraw.ImageDraw, thing: Thing, rng: random.Random, cell: float, left: float, top: float
) -> None:
    x = left + (thing.column + 0.5 + rng.uniform(-0.1, 0.1)) * cell
    y = top + (thing.row + 0.5 + rng.uniform(-0.1, 0.1)) * cell
    r = (0.36 if thing.size == "large" else 0.2) * cell * rng.uniform(0.93, 1.07)
    fill = _shade(thing.color, rng)
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        q = 0.88 * r
        pen.rectangle((x - q, y - q, x + q, y + q), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + 0.85 * r), (x + r, y + 0.85 * r)], fill=fill)
    elif thing.shape == "diamond":
        pen.polygon([(x, y - 1.1 * r), (x + 0.8 * r, y), (x, y + 1.1 * r), (x - 0.8 * r, y)], fill=fill)
    elif thing.shape == "cross":
        q = r / 3
        pen.rectangle((x - r, y - q, x + r, y + q), fill=fill)
        pen.rectangle((x - q, y - r, x + q, y + r), fill=fill)
    else:
        assert thing.shape == "star", thing.shape
        radii = [1.1 * r if k % 2 == 0 else 0.45 * r for k in range(10)]
        angles = [-math.pi / 2 + k * math.pi / 5 for k in range(10)]
        pen.polygon([(x + p * math.cos(a), y + p * math.sin(a)) for p, a in zip(radii, angles, strict=True)], fill=fill)


def _draw_sign(pen: ImageDraw.ImageDraw, sign: Sign, rng: random.Random, cell: float, left: float, top: float) -> None:
    x = left + (1.5 + rng.uniform(-0.15, 0.15)) * cell
    y = top + (sign.row + 0.5 + rng.uniform(-0.06, 0.06)) * cell
    half_width, half_height = 0.95 * cell, 0.36 * cell
    fill = _shade(sign.color, rng)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    pen.rectangle(box, fill=fill, outline=(60, 40, 20), width=max(1, round(cell / 30)))
    light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2]
    ink = (10, 10, 10) if light > 130 else (250, 250, 250)
    pen.text((x, y), sign.word, fill=ink, font=_font(max(6, round(0.6 * cell))), anchor="mm")


def _draw_watermark(image: Image.Image, rng: random.Random, cell: float) -> None:
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    text, font = rng.choice(_WATERMARK_TEXTS), _font(max(6, round(0.34 * cell)))
    strength = rng.randint(25, 130)  # of 255; the faintest are hard to detect
    for k in range(3):
        x, y = rng.uniform(0, 0.5) * image.width, (k + rng.random()) / 3 * image.height
        pen.text((x, y), text, fill=strength, font=font, anchor="lm")
        start, end = (k + rng.random()) / 3 * image.height, (k + rng.random()) / 3 * image.height
        pen.line((0, start, image.width, end), fill=strength, width=max(1, round(cell / 40)))
    image.paste((128, 128, 128), mask=mask)
