"""Pictures of a benchmark, decoded and resized ahead of the model.

In: pictures in the order in which they are needed. Out: for each part of them uint8 squares (P, S, S, 3), or what the
feature cache holds. On a GPU worker processes prepare the next parts (threads would take the interpreter away from the
one that feeds the GPU) into pinned memory; on the CPU, where nothing runs beside the model, each part is prepared when
it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.data.feature_cache import FeatureCache
from toolkit.file_errors import EnvironmentFault
from toolkit.models.mgm.images import ImageError, read_image
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.towers import TowerFeatures

Picture = Path | bytes
Part = Sequence[tuple[Picture, str]]
"""Pictures with the id of a prompt each, to be named in errors."""


class _Parts(Dataset[Tensor | TowerFeatures | ImageError | EnvironmentFault]):
    def __init__(self, parts: Sequence[Part], processor: MGMProcessor, cache: FeatureCache | None) -> None:
        self.parts, self.processor, self.cache = parts, processor, cache

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Tensor | TowerFeatures | ImageError | EnvironmentFault:
        part = self.parts[number]
        if self.cache is not None:
            return self.cache.load([picture for picture, _ in part])
        try:
            return self.processor.squares([read_image(picture, sample_id=id_) for picture, id_ in part], aspect="pad")
        except (ImageError, EnvironmentFault) as error:
            # Raised in a worker, its message would come wrapped in the worker's traceback.
            return error


def loaded(
    parts: Sequence[Part], processor: MGMProcessor, cache: FeatureCache | None, *, workers: int, pin: bool
) -> Iterator[Tensor | TowerFeatures]:
    """Each part's squares, or its features when there is a cache (which must hold them), in order.

    Args:
        workers: processes; 0 prepares in this one.
        pin: into pinned memory, for copies to a GPU that nothing waits for.

    Raises:
        ImageError: a picture that cannot be read; the message names the prompt.
    """
    loader: DataLoader[Tensor | TowerFeatures | ImageError | EnvironmentFault] = DataLoader(
        _Parts(parts, processor, cache), batch_size=None, num_workers=min(workers, len(parts)), pin_memory=pin
    )
    for item in loader:
        if isinstance(item, ImageError | EnvironmentFault):
            raise item
        yield item


def workers_for(device: torch.device, cores: int) -> int:
    """Worker processes for a model on ``device``: none beside the CPU, else one per core up to 16."""
    return 0 if device.type == "cpu" else min(16, cores)
