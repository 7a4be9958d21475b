"""CLIP checkpoints of either library, behind one interface. In: a folder or hub id. Out: a ``Backend``.

An OpenCLIP checkpoint is a folder with ``open_clip_config.json`` or ``hf-hub:org/name``; any other folder or hub id is
one of transformers. Images are prepared by the checkpoint's own transform, its arithmetic by table (see ``pixels``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bettersynth_assets.config.devices import HUB_PREFIX
from bettersynth_assets.operators.pixels import resizing


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What a checkpoint gives, whichever library it comes from."""

    image: Callable[[Any], Any]
    """RGB image to uint8 tensor (S, S, 3) where there are ``levels``, else to float32 tensor (3, H, W)."""
    levels: Any
    """(3, 256) float32 on the device: what each grey level of each channel is to the model; or None."""
    tokens: Callable[[Sequence[str]], tuple[dict[str, Any], list[bool]]]
    """Captions to (model inputs, truncated or not)."""
    image_features: Callable[[Any], Any]
    """(B, 3, H, W) to (B, D)."""
    text_features: Callable[[dict[str, Any]], Any]
    """Model inputs to (B, D)."""
    parameters: int


def load_backend(name: str, device: str, dtype: Any) -> Backend:
    """Load a checkpoint.

    Args:
        name: an existing folder or a hub id.
        device: torch device.
        dtype: torch type of the weights.
    """
    is_open_clip = name.startswith(HUB_PREFIX) or (Path(name) / "open_clip_config.json").is_file()
    return (_open_clip if is_open_clip else _transformers_clip)(name, device, dtype)


def _open_clip(name: str, device: str, dtype: Any) -> Backend:
    import open_clip

    source = name if name.startswith(HUB_PREFIX) else f"local-dir:{name}"
    model, transform = open_clip.create_model_from_pretrained(source, device="cpu")
    model = model.eval().to(device, dtype)
    tokenizer = open_clip.get_tokenizer(source)
    context = int(model.context_length)
    # One position more than the model reads shows which captions go on.
    empty = tokenizer([""], context_length=context + 1)[0]
    pad, pads_with_end = int(empty[-1]), int(empty[0]) != int(empty[-1]) == int(empty[1])

    def tokens(captions: Sequence[str]) -> tuple[dict[str, Any], list[bool]]:
        longer = tokenizer(list(captions), context_length=context + 1)
        used = (longer != pad).int().flip(-1).argmax(-1)  # padding at the end
        lengths = longer.shape[-1] - used + (1 if pads_with_end else 0)
        truncated, text = (lengths > context).tolist(), longer[:, :context].clone()
        if any(truncated):
            cut = [caption for caption, is_longer in zip(captions, truncated, strict=True) if is_longer]
            text[truncated] = tokenizer(cut, context_length=context)
        return {"text": text.to(device)}, truncated

    image, levels = _split(transform)
    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=tokens,
        image_features=model.encode_image,
        text_features=lambda inputs: model.encode_text(**inputs),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _transformers_clip(name: str, device: str, dtype: Any) -> Backend:
    from transformers import AutoProcessor, CLIPModel

    model = CLIPModel.from_pretrained(name, dtype=dtype).eval().to(device)
    processor = AutoProcessor.from_pretrained(name)
    context = model.config.text_config.max_position_embeddings

    image, levels = resizing(processor.image_processor)

    def tokens(captions: Sequence[str]) -> tuple[dict[str, Any], list[bool]]:
        lengths = [len(ids) for ids in processor.tokenizer(list(captions), verbose=False)["input_ids"]]
        inputs = processor.tokenizer(
            list(captions), return_tensors="pt", padding=True, truncation=True, max_length=context
        )
        return dict(inputs.to(device)), [length > context for length in lengths]

    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=tokens,
        image_features=lambda pixels: model.get_image_features(pixel_values=pixels),
        text_features=lambda inputs: model.get_text_features(**inputs),
        parameters=model.num_parameters(),
    )


def _split(transform: Any) -> tuple[Callable[[Any], Any], Any]:
    """``resizing`` for OpenCLIP's transform: everything before the tensor is made, and what follows as levels."""
    import torch
    from PIL import Image
    from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor

    steps = list(getattr(transform, "transforms", []))
    ends = len(steps) >= 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)
    if not ends or not {Resize, CenterCrop} <= {type(step) for step in steps}:
        return transform, None

    def image(rgb: Any) -> Any:
        for step in steps[:-2]:
            rgb = step(rgb)
        return torch.from_numpy(np.array(rgb))

    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    return image, steps[-1](steps[-2](ramp))[:, 0]
