"""The two rules by which images become RGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from toolkit.images.rgb import Rule, upright_rgb


def opened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


@pytest.mark.parametrize(("rule", "colour"), [("data", (255, 255, 255)), ("kit", (9, 8, 7))])
def test_transparent_pixels_are_white_for_data_and_keep_their_colour_for_the_kit(
    rule: Rule, colour: tuple[int, int, int]
) -> None:
    assert upright_rgb(opened(Image.new("RGBA", (3, 2), (9, 8, 7, 0))), rule).getcolors() == [(6, colour)]


@pytest.mark.parametrize(("rule", "grey"), [("data", [0, 2, 128, 255]), ("kit", [0, 1, 128, 255])])
def test_16_bit_grey_is_rounded_for_data_and_keeps_its_high_byte_for_the_kit(rule: Rule, grey: list[int]) -> None:
    values = np.array([[0, 400, 0x8000, 65535]], np.uint16)
    shown = np.asarray(upright_rgb(opened(Image.fromarray(values)), rule))
    assert shown.tolist() == [[[value] * 3 for value in grey]]


@pytest.mark.parametrize("rule", ["data", "kit"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_every_orientation_is_that_of_pillow(rule: Rule, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    deep = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(values).convert(mode)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = opened(ImageOps.exif_transpose(opened(image, exif=exif)))
        found, expected = upright_rgb(opened(image, exif=exif), rule), upright_rgb(turned, rule)
        assert np.array_equal(np.asarray(found), np.asarray(expected)), orientation
