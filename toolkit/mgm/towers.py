"""The two frozen image towers, wrapped so that their parameters carry the public names.

In: normalised images. Out: low-resolution tokens (I, N, d) of CLIP, four maps (I, c_s, g/2^s, g/2^s) of ConvNeXt.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel


class TowerFeatures(NamedTuple):
    """What the frozen towers say about I images; everything that may be cached.

    ``low``: (I, N, d) CLIP tokens without the class token. ``maps``: four ConvNeXt maps, strides 4, 8, 16 and 32.
    """

    low: Tensor
    maps: tuple[Tensor, ...]


class ClipTower(nn.Module):
    """CLIP's vision transformer up to the selected layer (``vision_tower.vision_model.*``)."""

    def __init__(self, config: CLIPVisionConfig, select_layer: int) -> None:
        super().__init__()
        self.vision_tower = CLIPVisionModel(config)
        self.layers_used = config.num_hidden_layers + 1 + select_layer

    def forward(self, images: Tensor) -> Tensor:
        """(I, 3, s, s) -> (I, N, d). Equals ``hidden_states[select_layer][:, 1:]``; later layers are not computed."""
        vision = self.vision_tower.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(images))
        for layer in vision.encoder.layers[: self.layers_used]:
            hidden = layer(hidden, None, None)[0]
        return hidden[:, 1:]


class ConvNextTower(nn.Module):
    """Stem and stages of timm's ConvNeXt (``vision_stem.*``, ``vision_stages.*``).

    It stays in evaluation mode whatever ``train()`` says, unless ``drop_path_in_training`` asks for the original code's
    random features.
    """

    def __init__(
        self, *, depths: list[int], dims: list[int], drop_path_rate: float, layer_scale_init: float,
        drop_path_in_training: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        from timm.models.convnext import ConvNeXt

        trunk = ConvNeXt(
            depths=tuple(depths), dims=tuple(dims), drop_path_rate=drop_path_rate, ls_init_value=layer_scale_init,
            num_classes=0,
        )  # fmt: skip
        self.vision_stem = trunk.stem
        self.vision_stages = trunk.stages
        self.drop_path_in_training = drop_path_in_training
        self.train(self.training)

    def train(self, mode: bool = True) -> ConvNextTower:
        super().train(mode and self.drop_path_in_training)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(I, 3, S, S) -> four maps (I, c_s, S/4/2^s, S/4/2^s)."""
        hidden, maps = self.vision_stem(images), []
        for stage in self.vision_stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return tuple(maps)
