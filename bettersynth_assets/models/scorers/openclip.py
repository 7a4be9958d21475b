"""Scorers of OpenCLIP: its towers or timm's, CoCa, SigLIP, with its tokenizer or one of transformers.

The checkpoint's transform prepares images, its arithmetic as a table (see ``pixels``). Its tokenizer determines which
captions are too long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bettersynth_assets.config.resolved_model import HUB_PREFIX
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.pixels import middle_square, stretched
from bettersynth_assets.models.checkpoints import tensors_only
from bettersynth_assets.models.scorers.backend import Backend, Tokens, patch_convolution

if TYPE_CHECKING:
    import torch
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
    from PIL.Image import Image
    from torch import Tensor, nn


def load_open_clip(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a folder with ``open_clip_config.json``, or ``hf-hub:org/name``.

    Raises:
        ConfigError: a file cannot be downloaded from the hub, weights are missing, have another shape, or are a pickle
            with code.
    """
    import open_clip

    source = name if name.startswith(HUB_PREFIX) else f"local-dir:{name}"
    label = f"models.clip = {name!r}"
    try:
        with tensors_only(label):
            model, transform = open_clip.create_model_from_pretrained(source, device="cpu")
        tokenizer = open_clip.get_tokenizer(source)
    except (OSError, RuntimeError) as error:
        hub_id = name.removeprefix(HUB_PREFIX)
        fix = (
            f"check the name and the connection, or run `hf download {hub_id} --local-dir FOLDER` on a connected "
            "machine and use that folder"
            if hub_id != name
            else "use a folder with the configuration and all the weights of one model"
        )
        cause = " ".join(str(error).split())[:300]
        raise ConfigError(f"{label}: OpenCLIP cannot load it ({cause}): {fix}") from error
    model = model.eval().to(device, dtype)
    image, levels = _split(transform)
    layers, patches = _image_tower(model.visual)
    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=_tokens(tokenizer),
        image_features=model.encode_image,
        text_features=lambda inputs: model.encode_text(**inputs),
        parameters=sum(weight.numel() for weight in model.parameters()),
        image_layers=layers,
        patches=patches,
    )


def _tokens(tokenizer: HFTokenizer | SimpleTokenizer) -> Callable[[Sequence[str]], Tokens]:
    import torch

    context = int(tokenizer.context_length)
    hugging_face = getattr(tokenizer, "tokenizer", None)
    pad = 0 if hugging_face is None else hugging_face.pad_token_id

    def lengths(captions: list[str]) -> list[int]:
        if hugging_face is None:
            return [len(tokenizer.encode(caption)) + 2 for caption in captions]  # with start and end
        is_clips = tokenizer.tokenizer_mode == "clips"  # adds start, end and class tokens itself
        cleaned = [tokenizer.clean_fn(caption) for caption in captions]
        token_ids = hugging_face(cleaned, add_special_tokens=not is_clips, verbose=False)["input_ids"]
        return [len(ids) + 3 * is_clips for ids in token_ids]

    def tokens(captions: Sequence[str]) -> Tokens:
        if not len(captions):
            return Tokens({"text": torch.zeros((0, context), dtype=torch.int64)}, np.zeros(0, bool))
        text = tokenizer(list(captions))
        # Only captions that fill their row can be too long; the last position may always hold an end token.
        full = np.flatnonzero((text[:, -2] != pad).numpy()).tolist()
        truncated = np.zeros(len(captions), bool)
        if full:
            truncated[full] = [length > context for length in lengths([captions[at] for at in full])]
        return Tokens({"text": text}, truncated)

    return tokens


def _image_tower(visual: nn.Module) -> tuple[list[nn.Module], nn.Conv2d | None]:
    """Return the layers of an image tower, and the convolution that makes patches; see ``Backend``.

    timm calls a sequence of layers ``blocks`` in all towers that have one: once in transformers, per stage elsewhere.
    """
    from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock

    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        kinds = ResidualAttentionBlock, CustomResidualAttentionBlock
        is_transformer = hasattr(visual, "transformer")  # a ResNet's first convolution has this name too
        layers = [layer for layer in visual.modules() if isinstance(layer, kinds)]
        return layers, patch_convolution(visual.conv1) if is_transformer and hasattr(visual, "conv1") else None
    sequences = [module for path, module in trunk.named_modules() if path.split(".")[-1] == "blocks"]
    layers = [layer for sequence in sequences for layer in sequence.children()]
    return layers, patch_convolution(getattr(getattr(trunk, "patch_embed", None), "proj", None))


def _split(transform: Callable[[Image], Tensor]) -> tuple[Callable[[Image], Tensor], Tensor | None]:
    """``resizing`` for OpenCLIP's transform: the resizing and the levels of the rest; or the transform, and None."""
    from PIL.Image import fromarray
    from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor
    from torchvision.transforms.functional import pil_modes_mapping

    steps = list(getattr(transform, "transforms", []))
    has_levels = len(steps) >= 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)
    if not has_levels or not isinstance(steps[0], Resize):
        return transform, None
    size, crops = steps[0].size, [step.size for step in steps if isinstance(step, CenterCrop)]
    resample = pil_modes_mapping[steps[0].interpolation]
    if isinstance(size, int) and crops == [(size,) * 2]:
        # Half of an odd number of spare pixels is rounded to even here.
        resized = middle_square(size, resample, lambda spare: round(spare / 2))
    elif not isinstance(size, int) and len(size) == 2 and not crops:
        resized = stretched(width=size[1], height=size[0], resample=resample)
    else:
        return transform, None
    ramp = fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    return resized, steps[-1](steps[-2](ramp))[:, 0]
