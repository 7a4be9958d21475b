"""The rules by which images become RGB. In: an opened image. Out: an RGB image in its upright orientation.

Common to both: the first frame, rotated as EXIF or XMP says, then Pillow's ``convert("RGB")``. They differ in

===================  ======================================  ===========================================
                     ``data``: scores, filters, captioners   ``kit``: training and evaluation
===================  ======================================  ===========================================
transparency         composed on white, as people see it     dropped, as the contest kit's loaders do
16-bit grey          round(value / 257)                      value // 256, as all checkpoints so far
===================  ======================================  ===========================================

Values of 16-bit grey outside 0..65535 are clipped. The colour under a transparent pixel is arbitrary, so a score or a
caption of it would say nothing; a trained model has to see what it was trained on.
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Rotations by the EXIF orientation."""
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# Errors that Pillow's readers raise for broken files; any other error is a bug and propagates.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error, OverflowError)

Rule = Literal["data", "kit"]


def upright_rgb(image: Image.Image, rule: Rule) -> Image.Image:
    """Convert an opened image to RGB by a rule of the module's docstring.

    Returns:
        Another image, loaded; the file can be closed.

    Raises:
        Exception: one of ``BROKEN``: the file's bytes are at fault, or Pillow cannot convert its mode.
    """
    image.load()
    turn = TURNS.get(orientation_of(image)[0])
    rgb = _to_rgb(image, rule)
    return rgb if turn is None else rgb.transpose(turn)


def orientation_of(image: Image.Image) -> tuple[int, bool]:
    """Return the EXIF or XMP orientation (1 if there is none), and whether the metadata is readable."""
    try:
        if "exif" in image.info:
            Image.Exif().load(image.info["exif"])  # parse again: Pillow hides errors while opening
        # Call the base class: PngImageFile.getexif decodes every image that has no EXIF.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except BROKEN:
        return 1, False
    return (value, True) if isinstance(value, int) else (1, False)


def _to_rgb(image: Image.Image, rule: Rule) -> Image.Image:
    if image.mode in DEEP_MODES:
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey = (deep + 128) // 257 if rule == "data" else deep // 256
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if rule == "data" and image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")  # also copies an RGB image, so that the file can be closed
