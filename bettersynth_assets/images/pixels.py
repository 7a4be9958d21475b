"""Images as models read them. In: RGB images. Out: float tensors, the same numbers as the checkpoint's own processor.

Where a processor only resizes, crops, and then does arithmetic on grey levels, the first two are a ``Resizing``, which
is done in threads or on the device, and the arithmetic is a table that the device looks up: the same floats, a quarter
of the bytes to send. A processor of another kind is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Frame(NamedTuple):
    """What an image is resized to, and where the crop lies in that; pixels."""

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """What is done to an RGB image before any arithmetic; called, it gives a uint8 tensor (H, W, 3)."""

    width: int
    """Of the result."""
    height: int
    resample: int
    """Pillow's number of the filter."""
    frame: Callable[[int, int], Frame]
    """From the width and height of an image."""

    def __call__(self, rgb: Any) -> Any:
        import torch
        from PIL import Image

        to = self.frame(rgb.width, rgb.height)
        resized = rgb.resize((to.width, to.height), Image.Resampling(self.resample))
        box = (to.left, to.top, to.left + self.width, to.top + self.height)
        return torch.from_numpy(np.array(resized.crop(box)))


def resizing(processor: Any) -> tuple[Callable[[Any], Any], Any]:
    """What of a transformers image processor is done to each image, and its table.

    Returns:
        A ``Resizing`` and the table, (3, 256) float32: what each grey level of each channel is to the model. For a
        processor of another kind a function to the float32 tensor (3, H, W), and None.
    """
    from transformers import (
        BlipImageProcessorPil,
        CLIPImageProcessorPil,
        SiglipImageProcessorPil,
        ViTImageProcessorPil,
    )

    from toolkit.models.mgm.images import grey_levels

    size, crop = dict(getattr(processor, "size", {})), dict(getattr(processor, "crop_size", None) or {})
    is_plain = all(getattr(processor, step, False) for step in ("do_resize", "do_rescale", "do_normalize"))
    resample = int(getattr(processor, "resample", 0))
    squashing = (BlipImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil)
    # MetaCLIP 2 squashes with CLIP's processor, whose crop then cuts nothing off.
    squashes = type(processor) in squashing or (type(processor) is CLIPImageProcessorPil and size == crop)
    if is_plain and squashes and size.keys() == {"height", "width"}:
        return stretched(int(size["width"]), int(size["height"]), resample), grey_levels(processor)
    is_square = {*crop.values()} == {size.get("shortest_edge")}
    if is_plain and type(processor) is CLIPImageProcessorPil and processor.do_center_crop and is_square:
        return middle_square(int(size["shortest_edge"]), resample), grey_levels(processor)
    return lambda rgb: processor(images=rgb, return_tensors="pt")["pixel_values"][0], None


def stretched(width: int, height: int, resample: int) -> Resizing:
    """The whole image, whatever its proportions."""
    return Resizing(
        width=width, height=height, resample=resample, frame=lambda *size: Frame(width, height, left=0, top=0)
    )


def middle_square(side: int, resample: int, half: Callable[[int], int] = lambda spare: spare // 2) -> Resizing:
    """The shortest edge resized to ``side``, then the middle; ``half`` is how much of the spare pixels goes left."""

    def frame(width: int, height: int) -> Frame:
        short = min(width, height)
        wide, high = (side if edge == short else int(side * edge / short) for edge in (width, height))
        return Frame(wide, high, left=half(wide - side), top=half(high - side))

    return Resizing(width=side, height=side, resample=resample, frame=frame)


def as_pixels(images: Sequence[Any], prepare: Callable[[Any], Any], levels: Any, device: str, dtype: Any) -> Any:
    """Images as a model reads them: (B, 3, H, W) on a device.

    Args:
        images: RGB images, what ``prepare`` made of them, or those stacked in one tensor.
        prepare: as from ``resizing``.
        levels: likewise; on the device.
        device: torch device.
        dtype: of the result.
    """
    from toolkit.models.mgm.images import as_floats

    prepared = stacked(images, prepare).to(device)
    return (prepared if levels is None else as_floats(prepared, levels)).to(dtype)


def stacked(images: Sequence[Any], prepare: Callable[[Any], Any]) -> Any:
    """RGB images, or what ``prepare`` made of them, in one tensor."""
    import torch

    if isinstance(images, torch.Tensor):
        return images
    return torch.stack([image if isinstance(image, torch.Tensor) else prepare(image) for image in images])


@lru_cache(maxsize=4096)
def filter_weights(edge: int, to: int, first: int, count: int, resample: int) -> NDArray[np.float32]:
    """(count, edge): what each input pixel of a row is worth to the pixels ``first`` and on of that row, resized.

    Pillow's own weights, before it rounds them to 22 bits: the rows of the unit matrix, resized.
    """
    from PIL import Image

    unit = Image.fromarray(np.eye(edge, dtype=np.float32))
    weights = np.asarray(unit.resize((to, edge), Image.Resampling(resample)))  # (edge, to)
    return np.ascontiguousarray(weights.T[first : first + count])
