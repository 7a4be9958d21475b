"""Aesthetics predictors: CLIP's vision tower with a small head. In: pixels. Out: one score per image, 0 to 10.

Classes for the public checkpoints ``shunk031/aesthetics-predictor-v1-*`` and ``-v2-*``, which combine LAION's
``aesthetic-predictor`` and Christoph Schuhmann's ``improved-aesthetic-predictor`` with CLIP's weights. Weight names
follow the package simple-aesthetics-predictor, which does not support transformers 5.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

WIDTHS = (1024, 128, 64, 16, 1)
DROPOUTS = (0.2, 0.2, 0.1)


class _Predictor(CLIPVisionModelWithProjection):
    """CLIP's normalised image embedding followed by a head, which subclasses define."""

    head: str
    """Name of the attribute that holds the head."""

    def forward(self, pixel_values: Tensor, **options: Any) -> ImageClassifierOutputWithNoAttention:
        """Score images.

        Args:
            pixel_values: (B, 3, H, W).
            **options: arguments of ``CLIPVisionModelWithProjection``.

        Returns:
            ``logits`` (B, 1), the scores; ``hidden_states`` (B, D), the embeddings.
        """
        embeds = super().forward(pixel_values, **options).image_embeds
        embeds = embeds / embeds.norm(dim=-1, keepdim=True)
        return ImageClassifierOutputWithNoAttention(logits=getattr(self, self.head)(embeds), hidden_states=embeds)


class AestheticsPredictorV1(_Predictor):
    """One linear layer."""

    head = "predictor"

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.predictor = nn.Linear(config.projection_dim, 1)
        self.post_init()


class AestheticsPredictorV2Linear(_Predictor):
    """Five linear layers without activations."""

    head = "layers"
    activation: type[nn.Module] | None = None

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__(config)
        steps: list[nn.Module] = []
        for at, width in enumerate(WIDTHS):
            steps.append(nn.Linear(WIDTHS[at - 1] if at else config.projection_dim, width))
            if self.activation is not None and width > 1:
                steps.append(self.activation())
            if at < len(DROPOUTS):
                steps.append(nn.Dropout(DROPOUTS[at]))
        self.layers = nn.Sequential(*steps)
        self.post_init()


class AestheticsPredictorV2ReLU(AestheticsPredictorV2Linear):
    """Five linear layers with a ReLU after each but the last."""

    activation = nn.ReLU


CLASSES = {
    predictor.__name__: predictor
    for predictor in (AestheticsPredictorV1, AestheticsPredictorV2Linear, AestheticsPredictorV2ReLU)
}


def predictor_class(name: str) -> type[_Predictor]:
    """Return the class of a checkpoint from its configuration, or else from its name, as Data-Juicer does.

    Raises:
        ValueError: neither names a class.
    """
    config = CLIPVisionConfig.from_pretrained(name)
    predictor = next((CLASSES[kind] for kind in config.architectures or [] if kind in CLASSES), None)
    if predictor is not None:
        return predictor
    if "v1" in name:
        return AestheticsPredictorV1
    if "v2" in name and ("linear" in name or "relu" in name):
        return AestheticsPredictorV2Linear if "linear" in name else AestheticsPredictorV2ReLU
    raise ValueError(f"{name!r} names no known class of aesthetics predictors; use one of {', '.join(CLASSES)}")
