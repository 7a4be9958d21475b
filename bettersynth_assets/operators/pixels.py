"""Images as models read them. In: RGB images. Out: float tensors, the same numbers as the checkpoint's own processor.

Where a processor only resizes, crops, and then does arithmetic on grey levels, the threads that decode do no more than
resize and crop; the arithmetic is a table that the device looks up. The same floats, a quarter of the bytes to send.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def resizing(processor: Any) -> tuple[Callable[[Any], Any], Any]:
    """What of a transformers image processor is done to each image, and its table.

    Returns:
        A function from an RGB image to a uint8 tensor (H, W, 3), and the table, (3, 256) float32: what each grey level
        of each channel is to the model. For a processor of another kind the function gives the float32 tensor
        (3, H, W), and the table is None.
    """
    import torch
    from PIL import Image
    from transformers import BlipImageProcessor, CLIPImageProcessor

    from toolkit.mgm.images import grey_levels, squares

    size, crop = dict(getattr(processor, "size", {})), dict(getattr(processor, "crop_size", None) or {})
    is_plain = all(getattr(processor, step, False) for step in ("do_resize", "do_rescale", "do_normalize"))
    resample = int(getattr(processor, "resample", 0))
    if is_plain and type(processor) is BlipImageProcessor and size.keys() == {"height", "width"}:
        shape = int(size["width"]), int(size["height"])
        filter_ = Image.Resampling(resample)
        return lambda rgb: torch.from_numpy(np.array(rgb.resize(shape, filter_))), grey_levels(processor)
    is_square = {*crop.values()} == {size.get("shortest_edge")}
    if is_plain and type(processor) is CLIPImageProcessor and processor.do_center_crop and is_square:
        side = int(size["shortest_edge"])
        return lambda rgb: squares([rgb], side=side, resample=resample, aspect="square")[0], grey_levels(processor)
    return lambda rgb: processor(images=rgb, return_tensors="pt")["pixel_values"][0], None


def as_pixels(images: Sequence[Any], prepare: Callable[[Any], Any], levels: Any, device: str, dtype: Any) -> Any:
    """RGB images, or what ``prepare`` made of them, as a model reads them: (B, 3, H, W) on a device."""
    import torch

    from toolkit.mgm.images import as_floats

    prepared = [image if isinstance(image, torch.Tensor) else prepare(image) for image in images]
    stacked = torch.stack(prepared).to(device)
    return (stacked if levels is None else as_floats(stacked, levels)).to(dtype)
