"""Padding and aspect of squares; ``models/mgm/test_mgm_processing.py`` compares them with CLIP's preprocessing."""

from __future__ import annotations

import pytest
from PIL import Image

from toolkit.images.squares import PAD_COLOUR, pad_to_square, squares


def test_padding_is_centred_and_an_unknown_aspect_is_refused() -> None:
    photo = Image.new("RGB", (90, 70))
    assert pad_to_square(photo).size == (90, 90)
    assert pad_to_square(photo).getpixel((0, 0)) == PAD_COLOUR
    with pytest.raises(ValueError, match="'stretch'"):
        squares([photo], side=64, resample=3, aspect="stretch")  # type: ignore[arg-type]
