"""Exposures to one batch, in a loader process.

Out: the processor's ``text_inputs``; ``loss_weights`` (B,); ``sample_ids`` (list of B); and either ``pixels``
(I, S, S, 3) uint8 or, with a cache, ``features`` (a list of tensors). I is the number of images in the batch; a batch
without any carries one black image, so that every process has the same parameters in its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.data.exposures import Exposure
from toolkit.data.protocols import FeatureCache, Processor
from toolkit.images.aspect import Aspect
from toolkit.images.reading import read_image


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Pads texts and loads images (or their cached features) of one batch.

    Args:
        pad_multiple: sequences with their images are padded to a multiple of it.
    """

    processor: Processor
    aspect: Aspect
    cache: FeatureCache | None = None
    pad_multiple: int = 1

    def __call__(self, exposures: Sequence[Exposure]) -> dict[str, Any]:
        ids, labels = ([getattr(e, name) for e in exposures] for name in ("input_ids", "labels"))
        batch = self.processor.text_inputs(ids, labels, multiple=self.pad_multiple)
        batch["loss_weights"] = torch.tensor([exposure.weight for exposure in exposures])
        batch["sample_ids"] = [exposure.id for exposure in exposures]
        return batch | self._images(exposures)

    def images(self, exposures: Sequence[Exposure], device: torch.device) -> dict[str, Any]:
        """Return the model's image inputs of a batch, on a device; texts are left out."""
        inputs = self._images(exposures)
        if "pixels" in inputs:
            return self.processor.pixel_inputs(inputs["pixels"].to(device))
        return {"features": [part.to(device) for part in inputs["features"]]}

    def _images(self, exposures: Sequence[Exposure]) -> dict[str, Any]:
        if self.cache is not None:
            return {"features": self.cache.inputs([e.image for e in exposures if e.image is not None])}
        return {"pixels": self._pixels(exposures)}

    def _pixels(self, exposures: Sequence[Exposure]) -> torch.Tensor:
        images = [read_image(e.image, sample_id=e.id) for e in exposures if e.image is not None]
        if images:
            return self.processor.squares(images, aspect=self.aspect)
        return torch.zeros(1, self.processor.side, self.processor.side, 3, dtype=torch.uint8)
