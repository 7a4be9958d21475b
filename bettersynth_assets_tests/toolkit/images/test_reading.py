"""Image files to RGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.images.reading import ImageError, read_image


def _photo(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_every_mode_becomes_rgb_and_exif_rotation_is_applied(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK", "1"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        _photo((8, 6), mode).save(path)
        assert (read_image(path, sample_id=mode).mode, read_image(path, sample_id=mode).size) == ("RGB", (8, 6))
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", sample_id="16").getpixel((0, 0)) == (128, 128, 128)
    exif = Image.Exif()
    exif[0x0112] = 6
    _photo((8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", sample_id="t").size == (6, 8)


def test_an_unreadable_image_is_named_and_never_replaced(tmp_path: Path) -> None:
    whole = io.BytesIO()
    _photo((64, 64)).save(whole, "JPEG")
    for name, content in {"empty": b"", "cut": whole.getvalue()[:300], "text": b"hello"}.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f"sample 's7'.*{name}.jpg"):
            read_image(path, sample_id="s7")
    with pytest.raises(ImageError, match=r"sample 's7'.*gone.jpg"):
        read_image(tmp_path / "gone.jpg", sample_id="s7")
