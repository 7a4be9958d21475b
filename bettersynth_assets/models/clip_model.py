"""CLIP checkpoints of either library, behind one interface. In: a folder or hub id. Out: a ``Backend``.

An OpenCLIP checkpoint is a folder with ``open_clip_config.json`` or ``hf-hub:org/name``; any other folder or hub id is
one of transformers. Images are prepared by the checkpoint's own transform, its arithmetic by table (see ``pixels``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.config.devices import HUB_PREFIX
from bettersynth_assets.images.pixels import middle_square, resizing
from bettersynth_assets.models.checkpoints import load_model, load_processor


@dataclass(frozen=True)
class Tokens:
    """Captions as a model reads them; a slice or a list of positions gives some of them."""

    inputs: dict[str, Any]
    """By the model's argument, (n, T), on the CPU."""
    truncated: NDArray[np.bool_]
    """(n,): the caption has more tokens than the model reads."""

    def __len__(self) -> int:
        return len(self.truncated)

    def __getitem__(self, rows: slice | list[int]) -> Tokens:
        return Tokens({name: values[rows] for name, values in self.inputs.items()}, self.truncated[rows])


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What a checkpoint gives, whichever library it comes from."""

    image: Callable[[Any], Any]
    """RGB image to uint8 tensor (S, S, 3) where there are ``levels``, else to float32 tensor (3, H, W)."""
    levels: Any
    """(3, 256) float32 on the device: what each grey level of each channel is to the model; or None."""
    tokens: Callable[[Sequence[str]], Tokens]
    image_features: Callable[[Any], Any]
    """(B, 3, H, W) to (B, D)."""
    text_features: Callable[[dict[str, Any]], Any]
    """Model inputs on the device to (B, D)."""
    parameters: int
    image_layers: list[Any]
    """All alike, so that they are compiled once. Captions have another length in each batch."""
    patches: Any
    """The convolution that cuts an image up, where its windows do not overlap; else None."""


def load_backend(name: str, device: str, dtype: Any) -> Backend:
    """Load a checkpoint.

    Args:
        name: an existing folder or a hub id.
        device: torch device.
        dtype: torch type of the weights.
    """
    # Captions are tokenized beside the model and the decoders; threads of the tokenizer's own would take their cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    is_open_clip = name.startswith(HUB_PREFIX) or (Path(name) / "open_clip_config.json").is_file()
    return (_open_clip if is_open_clip else _transformers_clip)(name, device, dtype)


def _open_clip(name: str, device: str, dtype: Any) -> Backend:
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    source = name if name.startswith(HUB_PREFIX) else f"local-dir:{name}"
    model, transform = open_clip.create_model_from_pretrained(source, device="cpu")
    model = model.eval().to(device, dtype)
    tokenizer = open_clip.get_tokenizer(source)
    context = int(model.context_length)
    # One position more than the model reads shows which captions go on.
    empty = tokenizer([""], context_length=context + 1)[0]
    pad, pads_with_end = int(empty[-1]), int(empty[0]) != int(empty[-1]) == int(empty[1])

    def tokens(captions: Sequence[str]) -> Tokens:
        longer = tokenizer(list(captions), context_length=context + 1)
        used = (longer != pad).int().flip(-1).argmax(-1)  # padding at the end
        lengths = longer.shape[-1] - used + (1 if pads_with_end else 0)
        truncated, text = lengths > context, longer[:, :context].clone()
        if truncated.any():
            cut = [caption for caption, is_longer in zip(captions, truncated.tolist(), strict=True) if is_longer]
            text[truncated] = tokenizer(cut, context_length=context)
        return Tokens({"text": text}, truncated.numpy())

    image, levels = _split(transform)
    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=tokens,
        image_features=model.encode_image,
        text_features=lambda inputs: model.encode_text(**inputs),
        parameters=sum(weight.numel() for weight in model.parameters()),
        image_layers=[layer for layer in model.visual.modules() if isinstance(layer, ResidualAttentionBlock)],
        patches=model.visual.conv1 if isinstance(model.visual, VisionTransformer) else None,
    )


def _transformers_clip(name: str, device: str, dtype: Any) -> Backend:
    import torch
    from transformers import CLIPModel

    model = load_model(CLIPModel, name, dtype=dtype, called=f"models.clip = {name!r}").to(device)
    processor = load_processor(name)
    context = model.config.text_config.max_position_embeddings
    # Attention on a GPU is planned anew, for some 70 ms, at each length.
    multiple = 16 if device.startswith("cuda") else 1

    image, levels = resizing(processor.image_processor)

    def tokens(captions: Sequence[str]) -> Tokens:
        # The tokenizer raises on an empty list.
        read = partial(processor.tokenizer, return_attention_mask=False, verbose=False)
        whole = read(list(captions))["input_ids"] if len(captions) else []
        # Cut as the tokenizer cuts: the end's token stays.
        rows = [ids if len(ids) <= context else [*ids[: context - 1], ids[-1]] for ids in whole]
        lengths = np.array([len(ids) for ids in rows], np.int64)
        longest = min(context, -(-int(lengths.max(initial=0)) // multiple) * multiple)
        padded = np.full((len(rows), longest), processor.tokenizer.pad_token_id)
        there = np.arange(padded.shape[1]) < lengths[:, None]
        padded[there] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        inputs = {"input_ids": padded, "attention_mask": there.astype(np.int64)}
        return Tokens(
            {name: torch.from_numpy(values) for name, values in inputs.items()},
            np.array([len(ids) > context for ids in whole], bool),
        )

    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=tokens,
        image_features=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        text_features=lambda inputs: model.get_text_features(**inputs).pooler_output,
        parameters=model.num_parameters(),
        image_layers=[*model.vision_model.encoder.layers],
        patches=model.vision_model.embeddings.patch_embedding,
    )


def as_product(convolution: Any) -> None:
    """Let a convolution whose windows do not overlap run as a matrix product, which takes a fraction of the time."""
    from torch.nn.functional import linear

    side = convolution.kernel_size[0]
    assert convolution.kernel_size == convolution.stride == (side, side)

    def forward(pixels: Any) -> Any:
        windows = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B, 3, h, side, w, side)
        rows, columns = windows.shape[2], windows.shape[4]
        patches = windows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        made = linear(patches, convolution.weight.flatten(1), convolution.bias)
        return made.transpose(1, 2).unflatten(2, (rows, columns))

    convolution.forward = forward


def _split(transform: Any) -> tuple[Callable[[Any], Any], Any]:
    """``resizing`` for OpenCLIP's transform: the resizing and the grey levels of what follows; or it, and None."""
    from PIL import Image
    from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor
    from torchvision.transforms.functional import pil_modes_mapping

    steps = list(getattr(transform, "transforms", []))
    sides = [step.size for step in steps if isinstance(step, Resize | CenterCrop)]
    ends = len(steps) >= 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)
    if not ends or not isinstance(steps[0], Resize) or not isinstance(sides[0], int) or sides[1:] != [(sides[0],) * 2]:
        return transform, None
    # Half of an odd number of spare pixels is rounded to even here.
    square = middle_square(sides[0], pil_modes_mapping[steps[0].interpolation], lambda spare: round(spare / 2))
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    return square, steps[-1](steps[-2](ramp))[:, 0]
