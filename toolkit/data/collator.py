"""Exposures to one batch, in a loader process.

Out: ``input_ids``, ``labels``, ``attention_mask`` (B, T), padded on the right; ``loss_weights`` (B,); ``layout``, see
:func:`toolkit.mgm.merging.lay_out`; ``sample_ids`` (list of B); and either ``pixels`` (I, S, S, 3) uint8 or, with a
cache, ``features`` (five tensors). I is the number of pictures in the batch; a batch without any carries one black
picture, so that every process has the same parameters in its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.data.exposures import Exposure
from toolkit.data.feature_cache import FeatureCache
from toolkit.mgm.aspect import Aspect
from toolkit.mgm.images import read_image
from toolkit.mgm.merging import lay_out
from toolkit.mgm.names import IGNORE_INDEX
from toolkit.mgm.processing_mgm import MGMProcessor


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Pads texts and loads pictures (or their cached features) of one batch.

    Args:
        pad_multiple: sequences with their images are padded to a multiple of it.
    """

    processor: MGMProcessor
    aspect: Aspect
    cache: FeatureCache | None = None
    pad_multiple: int = 1

    def __call__(self, exposures: Sequence[Exposure]) -> dict[str, Any]:
        pad = self.processor.tokenizer.pad_token_id or 0
        longest = max(len(exposure.input_ids) for exposure in exposures)
        ids = torch.full((len(exposures), longest), pad)
        labels = torch.full((len(exposures), longest), IGNORE_INDEX)
        mask = torch.zeros((len(exposures), longest), dtype=torch.long)
        for number, exposure in enumerate(exposures):
            length = len(exposure.input_ids)
            ids[number, :length] = torch.from_numpy(exposure.input_ids)
            labels[number, :length] = torch.from_numpy(exposure.labels)
            mask[number, :length] = 1
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch["loss_weights"] = torch.tensor([exposure.weight for exposure in exposures])
        tokens = self.processor.image_tokens
        batch["layout"] = lay_out(ids, mask, labels, image_tokens=tokens, multiple=self.pad_multiple)
        batch["sample_ids"] = [exposure.id for exposure in exposures]
        if self.cache is not None:
            # A plain list: trainers rebuild containers in a way that named tuples do not allow.
            features = self.cache.load([e.picture for e in exposures if e.picture is not None])
            batch["features"] = [features.low, *features.maps]
        else:
            batch["pixels"] = self._pixels(exposures)
        return batch

    def _pixels(self, exposures: Sequence[Exposure]) -> torch.Tensor:
        pictures = [read_image(e.picture, sample_id=e.id) for e in exposures if e.picture is not None]
        if pictures:
            return self.processor.squares(pictures, aspect=self.aspect)
        return torch.zeros(1, self.processor.side, self.processor.side, 3, dtype=torch.uint8)
