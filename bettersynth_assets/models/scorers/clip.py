"""CLIP and MetaCLIP 2 of transformers: padding is masked, a caption's embedding is that of its end token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from bettersynth_assets.images.pixels import resizing
from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.scorers.backend import Backend, Tokens, patch_convolution

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel, MetaClip2Model


def load_clip(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a ``CLIPModel``."""
    from transformers import CLIPModel

    return _load(CLIPModel, name, device, dtype)


def load_metaclip2(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a ``MetaClip2Model``; XLM-RoBERTa's tokenizer reads its captions in any language."""
    from transformers import MetaClip2Model

    return _load(MetaClip2Model, name, device, dtype)


def _load(model_class: type[CLIPModel | MetaClip2Model], name: str, device: str, dtype: torch.dtype) -> Backend:
    import torch

    model = load_model(model_class, name, dtype=dtype, label=f"models.clip = {name!r}").to(device)
    processor = load_processor(name)
    context = min(model.config.text_config.max_position_embeddings, processor.tokenizer.model_max_length)
    # Each new length costs a GPU some 70 ms, because attention is planned again.
    multiple = 16 if device.startswith("cuda") else 1

    image, levels = resizing(processor.image_processor)

    def tokens(captions: Sequence[str]) -> Tokens:
        # The tokenizer raises on an empty list.
        tokenize = partial(processor.tokenizer, return_attention_mask=False, verbose=False)
        token_ids = tokenize(list(captions))["input_ids"] if len(captions) else []
        # Truncate like the tokenizer: the end token stays.
        rows = [ids if len(ids) <= context else [*ids[: context - 1], ids[-1]] for ids in token_ids]
        lengths = np.array([len(ids) for ids in rows], np.int64)
        longest = min(context, -(-int(lengths.max(initial=0)) // multiple) * multiple)
        padded = np.full((len(rows), longest), processor.tokenizer.pad_token_id)
        in_caption = np.arange(padded.shape[1]) < lengths[:, None]
        padded[in_caption] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        inputs = {"input_ids": padded, "attention_mask": in_caption.astype(np.int64)}
        return Tokens(
            {name: torch.from_numpy(values) for name, values in inputs.items()},
            np.array([len(ids) > context for ids in token_ids], bool),
        )

    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=tokens,
        image_features=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        text_features=lambda inputs: model.get_text_features(**inputs).pooler_output,
        parameters=model.num_parameters(),
        image_layers=[*model.vision_model.encoder.layers],
        patches=patch_convolution(model.vision_model.embeddings.patch_embedding),
    )
