"""SigLIP of transformers, and SigLIP 2 checkpoints of fixed resolution, whose ``model_type`` is ``siglip`` too.

Images are resized to a square. Captions are padded to the tokenizer's limit (64 tokens), and the embedding is that of
the last position, so batches cannot be shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bettersynth_assets.images.pixels import resizing
from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.scorers.backend import Backend, Tokens, patch_convolution

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def load_siglip(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a ``SiglipModel``."""
    from transformers import SiglipModel

    model = load_model(SiglipModel, name, dtype=dtype, label=f"models.clip = {name!r}").to(device)
    processor = load_processor(name)
    image, levels = resizing(processor.image_processor)
    return Backend(
        image=image,
        levels=None if levels is None else levels.to(device),
        tokens=full_length_tokens(processor.tokenizer, model.config.text_config.max_position_embeddings),
        image_features=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        text_features=lambda inputs: model.get_text_features(**inputs).pooler_output,
        parameters=model.num_parameters(),
        image_layers=[*model.vision_model.encoder.layers],
        patches=patch_convolution(model.vision_model.embeddings.patch_embedding),
    )


def full_length_tokens(tokenizer: PreTrainedTokenizerBase, positions: int) -> Callable[[Sequence[str]], Tokens]:
    """Return a tokenise function that pads to the tokenizer's limit or, if that is less, the model's.

    Args:
        tokenizer: tokenizer of transformers.
        positions: number of positions of the model.
    """
    import torch

    limit = min(positions, tokenizer.model_max_length)

    def tokens(captions: Sequence[str]) -> Tokens:
        if not len(captions):
            return Tokens({"input_ids": torch.zeros((0, limit), dtype=torch.int64)}, np.zeros(0, bool))
        inputs = tokenizer(list(captions), padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
        names = [name for name in ("input_ids", "attention_mask") if name in inputs]
        # Only captions that fill their row can be too long. The last token does not show it: SigLIP pads with the
        # token that ends every caption.
        last_of_row = inputs["input_ids"][:, 0 if tokenizer.padding_side == "left" else -2]
        full = np.flatnonzero((last_of_row != tokenizer.pad_token_id).numpy()).tolist()
        truncated = np.zeros(len(captions), bool)
        if full:
            token_ids = tokenizer([captions[at] for at in full], verbose=False)["input_ids"]
            truncated[full] = [len(ids) > limit for ids in token_ids]
        return Tokens({name: inputs[name] for name in names}, truncated)

    return tokens
