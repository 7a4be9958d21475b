"""The two frozen vision towers, with the public parameter names.

In: normalised images. Out: low-resolution tokens (I, N, d) of CLIP, four maps (I, c_s, g/2^s, g/2^s) of ConvNeXt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from toolkit.models.kernels.gelu import gelu
from toolkit.models.mgm.common.speed import CPU, Speed, compiled

if TYPE_CHECKING:
    from timm.models.convnext import ConvNeXtBlock
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings


class TowerFeatures(NamedTuple):
    """Features of I images from the frozen towers; they can be cached."""

    low: Tensor
    """(I, N, d) CLIP tokens without the class token."""
    maps: tuple[Tensor, ...]
    """Four ConvNeXt maps with strides 4, 8, 16 and 32."""


class _Clip(CLIPVisionModel):
    """CLIP's vision transformer; a separate class, so that transformers does not rename its weights."""


class ClipTower(nn.Module):
    """CLIP's vision transformer up to the selected layer (``vision_tower.vision_model.*``)."""

    def __init__(self, config: CLIPVisionConfig, select_layer: int) -> None:
        super().__init__()
        self.vision_tower = nn.ModuleDict({"vision_model": _Clip(config)})
        self.layers_used = config.num_hidden_layers + 1 + select_layer

    def forward(self, images: Tensor, speed: Speed = CPU) -> Tensor:
        """(I, 3, s, s) -> (I, N, d), equal to ``hidden_states[select_layer][:, 1:]``."""
        vision: Any = self.vision_tower["vision_model"]
        vision.config._attn_implementation = "sdpa" if speed.short_clip else "eager"
        embed = partial(_clip_embeddings, vision.embeddings) if speed.short_clip else vision.embeddings
        hidden = vision.pre_layrnorm(embed(images))
        chosen = hidden
        run = compiled(_clip_layer, dynamic=False) if speed.compiled else _clip_layer
        layers = vision.encoder.layers
        for number, layer in enumerate(layers[: self.layers_used] if speed.short_clip else layers, start=1):
            hidden = run(layer, hidden)
            chosen = hidden if number == self.layers_used else chosen
        return chosen[:, 1:]


def _clip_embeddings(embeddings: CLIPVisionEmbeddings, images: Tensor) -> Tensor:
    """Embed patches, with the convolution as a matmul: (I, 3, s, s) -> (I, 1 + N, d)."""
    patches = _patches(embeddings.patch_embedding, images.permute(0, 2, 3, 1)).flatten(1, 2)
    first = embeddings.class_embedding.expand(len(images), 1, -1)
    return torch.cat([first, patches], dim=1) + embeddings.position_embedding.weight


def _clip_layer(layer: nn.Module, hidden: Tensor) -> Tensor:
    result: Tensor = layer(hidden, None)
    return result


class ConvNextTower(nn.Module):
    """Stem and stages of timm's ConvNeXt (``vision_stem.*``, ``vision_stages.*``).

    Args:
        depths, dims: blocks and channels of the four stages.
        drop_path_rate: stochastic depth rate of the last block; rates increase linearly up to it.
        layer_scale_init: initial value of each block's scale.
        drop_path: when stochastic depth is active. ``always`` reproduces the original, which keeps this frozen tower in
            training mode even during evaluation, so that its features are random; ``training`` activates it in
            training only; ``off`` never.
    """

    def __init__(
        self, *, depths: list[int], dims: list[int], drop_path_rate: float, layer_scale_init: float,
        drop_path: str = "off",
    ) -> None:  # fmt: skip
        super().__init__()
        from timm.models.convnext import ConvNeXt

        trunk = ConvNeXt(
            depths=tuple(depths), dims=tuple(dims), drop_path_rate=drop_path_rate, ls_init_value=layer_scale_init,
            num_classes=0,
        )  # fmt: skip
        self.vision_stem = trunk.stem
        self.vision_stages = trunk.stages
        self.drop_path = drop_path
        self.train(self.training)

    def train(self, mode: bool = True) -> ConvNextTower:
        """Set training mode only if ``drop_path`` allows it."""
        super().train(self.drop_path == "always" or (mode and self.drop_path == "training"))
        return self

    def forward(self, images: Tensor, speed: Speed = CPU) -> tuple[Tensor, ...]:
        """(I, 3, S, S) -> four maps (I, c_s, S/4/2^s, S/4/2^s)."""
        if not speed.nhwc_convnext:
            hidden, maps = self.vision_stem(images), []
            for stage in self.vision_stages:
                hidden = stage(hidden)
                maps.append(hidden)
            return tuple(maps)

        def run(part: Callable[..., Tensor], *arguments: Any) -> Tensor:
            return (compiled(part, dynamic=False) if speed.compiled else part)(*arguments)

        stem: Any = self.vision_stem
        hidden = run(_stem, *stem, images)
        maps = []
        stages: Any = self.vision_stages
        for stage in stages:
            if not isinstance(stage.downsample, nn.Identity):
                hidden = run(_downsample, *stage.downsample, hidden)
            for block in stage.blocks:
                convolved = _depthwise(block.conv_dw, hidden, speed)
                hidden = run(_block_rest, block, hidden, convolved, _kept(block, hidden))
            maps.append(hidden.permute(0, 3, 1, 2))
        return tuple(maps)


def _patches(convolution: nn.Conv2d, hidden: Tensor) -> Tensor:
    """Run a convolution with stride = kernel size as a matmul: (I, H, W, c_in) -> (I, H/k, W/k, c_out)."""
    k = convolution.kernel_size[0]
    patches = hidden.unflatten(2, (-1, k)).unflatten(1, (-1, k)).transpose(2, 3).flatten(3)
    return F.linear(patches, convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)


def _stem(convolution: nn.Conv2d, norm: nn.LayerNorm, images: Tensor) -> Tensor:
    """(I, 3, S, S) -> (I, S/4, S/4, c)."""
    patches = _patches(convolution, images.permute(0, 2, 3, 1))
    return F.layer_norm(patches, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _downsample(norm: nn.LayerNorm, convolution: nn.Conv2d, hidden: Tensor) -> Tensor:
    """(I, H, W, c) -> (I, H/2, W/2, c')."""
    return _patches(convolution, F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, norm.eps))


def _depthwise(convolution: nn.Conv2d, hidden: Tensor, speed: Speed) -> Tensor:
    """Run a block's 7 × 7 depthwise convolution: (I, H, W, c) -> (I, H, W, c)."""
    if speed.depthwise_kernel and hidden.dtype == torch.bfloat16 and hidden.is_cuda:
        from toolkit.models.kernels.depthwise import depthwise

        assert convolution.bias is not None
        return depthwise(hidden, convolution.weight, convolution.bias)
    result: Tensor = convolution(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return result


def _kept(block: ConvNeXtBlock, hidden: Tensor) -> Tensor | None:
    """Draw DropPath's factor per image, (I, 1, 1, 1), as timm does; None if DropPath is inactive."""
    rate = getattr(block.drop_path, "drop_prob", 0.0)
    if not block.training or not rate:
        return None
    return hidden.new_empty(len(hidden), 1, 1, 1).bernoulli_(1 - rate).div_(1 - rate)


def _block_rest(block: ConvNeXtBlock, hidden: Tensor, convolved: Tensor, kept: Tensor | None) -> Tensor:
    """Run the rest of a block after its depthwise convolution; all tensors (I, H, W, c)."""
    if torch.compiler.is_compiling():
        branch = block.mlp.fc2(gelu(block.mlp.fc1(block.norm(convolved)))) * block.gamma
    else:
        branch = block.mlp(block.norm(convolved)) * block.gamma
    return hidden + (branch if kept is None else branch * kept)
