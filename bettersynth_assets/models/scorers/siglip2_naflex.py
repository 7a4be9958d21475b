"""SigLIP 2 with NaFlex of transformers: an image keeps its aspect ratio and becomes a sequence of patches.

``image`` returns (N, P·P·3 + 3) float32, where N is the maximum number of patches: each patch, whether it is one (the
others are padding), and the rows and columns of patches of the image. It is one tensor, because images are stacked and
copied to the device like those of the other scorers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.scorers.backend import Backend
from bettersynth_assets.models.scorers.siglip import full_length_tokens

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


def load_siglip2_naflex(name: str, device: str, dtype: torch.dtype) -> Backend:
    """Load a ``Siglip2Model``."""
    import torch
    from transformers import Siglip2Model

    model = load_model(Siglip2Model, name, dtype=dtype, label=f"models.clip = {name!r}").to(device)
    processor = load_processor(name)

    def image(rgb: Image) -> Tensor:
        inputs = processor.image_processor(images=rgb, return_tensors="pt")
        patches, mask, shape = (inputs[key][0] for key in ("pixel_values", "pixel_attention_mask", "spatial_shapes"))
        return torch.cat([patches, mask[:, None], shape.expand(len(patches), 2)], dim=1).float()

    def image_features(packed: Tensor) -> Tensor:
        return model.get_image_features(
            pixel_values=packed[..., :-3],
            pixel_attention_mask=packed[..., -3].long(),
            spatial_shapes=packed[:, 0, -2:].long(),
        ).pooler_output

    return Backend(
        image=image,
        levels=None,
        tokens=full_length_tokens(processor.tokenizer, model.config.text_config.max_position_embeddings),
        image_features=image_features,
        text_features=lambda inputs: model.get_text_features(**inputs).pooler_output,
        parameters=model.num_parameters(),
        image_layers=[*model.vision_model.encoder.layers],
        can_record=False,  # position embeddings are resized for each image's shape
    )
