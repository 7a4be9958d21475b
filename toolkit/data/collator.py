"""Encoded samples to one batch.

Out: ``input_ids``, ``labels``, ``attention_mask`` (B, T), padded on the right; ``sample_ids`` (list of B); and either
``images`` and ``images_aux`` or, with a cache, ``features`` (five tensors). I is the number of pictures in the batch; a
batch without any carries one zero picture, so that every process has the same parameters in its graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from toolkit.data.feature_cache import FeatureCache
from toolkit.data.llava import EncodedSample
from toolkit.mgm.aspect import Aspect
from toolkit.mgm.configuration_mgm import IGNORE_INDEX
from toolkit.mgm.images import read_image
from toolkit.mgm.processing_mgm import MGMProcessor


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Pads texts and loads pictures (or their cached features) of one batch."""

    processor: MGMProcessor
    aspect: Aspect
    cache: FeatureCache | None = None

    def __call__(self, samples: Sequence[EncodedSample]) -> dict[str, Any]:
        pad = self.processor.tokenizer.pad_token_id or 0
        longest = max(len(sample.row.input_ids) for sample in samples)
        ids = torch.full((len(samples), longest), pad)
        labels = torch.full((len(samples), longest), IGNORE_INDEX)
        mask = torch.zeros((len(samples), longest), dtype=torch.long)
        for number, sample in enumerate(samples):
            length = len(sample.row.input_ids)
            ids[number, :length] = torch.tensor(sample.row.input_ids)
            labels[number, :length] = torch.tensor(sample.row.labels)
            mask[number, :length] = 1
        batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch["sample_ids"] = [sample.id for sample in samples]
        if self.cache is not None:
            # A plain list: trainers rebuild containers in a way that named tuples do not allow.
            features = self.cache.load([sample.image for sample in samples if sample.image is not None])
            batch["features"] = [features.low, *features.maps]
        else:
            batch["images"], batch["images_aux"] = self._pixels(samples)
        return batch

    def _pixels(self, samples: Sequence[EncodedSample]) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = [read_image(s.image, sample_id=s.id) for s in samples if s.image is not None]
        if pictures:
            return self.processor.preprocess(pictures, aspect=self.aspect)
        low, aux = self.processor.image_size, self.processor.image_processor.crop_size["height"]
        return torch.zeros(1, 3, low, low), torch.zeros(1, 3, aux, aux)
