"""Prepares images for models. In: RGB images. Out: float tensors, bit-identical to the checkpoint's own processor.

If a processor only resizes, crops and normalizes, resizing and cropping become a ``Resizing``, which runs in threads or
on the device. Normalization becomes a lookup table on the device: the same floats, with a quarter of the bytes to copy.
Any other processor is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BaseImageProcessor

    ImageBatch = Sequence[Image | Tensor] | Tensor
    """RGB images, tensors that a ``prepare`` function has made of them, or such tensors stacked in one."""


class Frame(NamedTuple):
    """Size to which an image is resized, and position of the crop in it, in pixels."""

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """Callable that resizes and crops an RGB image; returns a uint8 tensor (H, W, 3)."""

    width: int
    """Width of the result."""
    height: int
    resample: int
    """A value of Pillow's ``Resampling``."""
    frame: Callable[[int, int], Frame]
    """Computes the frame from the width and height of an image."""

    def __call__(self, rgb: Image) -> Tensor:
        import torch
        from PIL.Image import Resampling

        to = self.frame(rgb.width, rgb.height)
        resized = rgb.resize((to.width, to.height), Resampling(self.resample))
        box = (to.left, to.top, to.left + self.width, to.top + self.height)
        return torch.from_numpy(np.array(resized.crop(box)))


def resizing(processor: BaseImageProcessor) -> tuple[Callable[[Image], Tensor], Tensor | None]:
    """Split a transformers image processor into a resizing and a normalization table.

    Returns:
        A ``Resizing``, and the table (3, 256) float32: the model's input value for each grey level of each channel.
        For any other kind of processor: a function that returns the float32 tensor (3, H, W), and None.
    """
    from transformers import (
        BlipImageProcessorPil,
        CLIPImageProcessorPil,
        SiglipImageProcessorPil,
        ViTImageProcessorPil,
    )

    from toolkit.images.squares import grey_levels

    size, crop = dict(getattr(processor, "size", {})), dict(getattr(processor, "crop_size", None) or {})
    is_plain = all(getattr(processor, step, False) for step in ("do_resize", "do_rescale", "do_normalize"))
    resample = int(getattr(processor, "resample", 0))
    squashing = (BlipImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil)
    # MetaCLIP 2 resizes without keeping the aspect ratio, with CLIP's processor; its crop then removes nothing.
    squashes = type(processor) in squashing or (type(processor) is CLIPImageProcessorPil and size == crop)
    if is_plain and squashes and size.keys() == {"height", "width"}:
        return stretched(int(size["width"]), int(size["height"]), resample), grey_levels(processor)
    is_square = {*crop.values()} == {size.get("shortest_edge")}
    if is_plain and type(processor) is CLIPImageProcessorPil and processor.do_center_crop and is_square:
        return middle_square(int(size["shortest_edge"]), resample), grey_levels(processor)
    return lambda rgb: processor(images=rgb, return_tensors="pt")["pixel_values"][0], None


def stretched(width: int, height: int, resample: int) -> Resizing:
    """Return a ``Resizing`` of the whole image that does not keep its aspect ratio."""
    return Resizing(
        width=width, height=height, resample=resample, frame=lambda *size: Frame(width, height, left=0, top=0)
    )


def middle_square(side: int, resample: int, half: Callable[[int], int] = lambda spare: spare // 2) -> Resizing:
    """Return a ``Resizing`` of the shortest edge to ``side``, with a centre crop.

    Args:
        side: edge of the result, in pixels.
        resample: a value of Pillow's ``Resampling``.
        half: maps the number of surplus pixels to how many are cut off on the left or top.
    """

    def frame(width: int, height: int) -> Frame:
        short = min(width, height)
        scaled_width, scaled_height = (side if edge == short else int(side * edge / short) for edge in (width, height))
        return Frame(scaled_width, scaled_height, left=half(scaled_width - side), top=half(scaled_height - side))

    return Resizing(width=side, height=side, resample=resample, frame=frame)


def as_pixels(
    images: ImageBatch,
    prepare: Callable[[Image], Tensor],
    levels: Tensor | None,
    device: str,
    dtype: torch.dtype,
) -> Tensor:
    """Convert images to a model's input (B, 3, H, W) on a device.

    Args:
        images: RGB images, results of ``prepare``, or such results stacked in one tensor.
        prepare: from ``resizing``.
        levels: from ``resizing``, on the device.
        device: torch device.
        dtype: dtype of the result.
    """
    from toolkit.images.squares import as_floats

    prepared = stacked(images, prepare).to(device)
    return (prepared if levels is None else as_floats(prepared, levels)).to(dtype)


def stacked(images: ImageBatch, prepare: Callable[[Image], Tensor]) -> Tensor:
    """Stack RGB images, or results of ``prepare``, in one tensor."""
    import torch

    if isinstance(images, torch.Tensor):
        return images
    return torch.stack([image if isinstance(image, torch.Tensor) else prepare(image) for image in images])


@lru_cache(maxsize=4096)
def filter_weights(edge: int, to: int, first: int, count: int, resample: int) -> NDArray[np.float32]:
    """Return the weights (count, edge) of a row's input pixels for the resized pixels from ``first`` on.

    These are Pillow's own weights before it rounds them to 22 bits, computed by resizing the identity matrix.
    """
    from PIL.Image import Resampling, fromarray

    unit = fromarray(np.eye(edge, dtype=np.float32))
    weights = np.asarray(unit.resize((to, edge), Resampling(resample)))  # (edge, to)
    return np.ascontiguousarray(weights.T[first : first + count])
