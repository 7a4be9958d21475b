"""Images of a benchmark, decoded and resized ahead of the model.

In: groups of P images, in the order in which the model needs them. Out: per group uint8 squares (P, S, S, 3), range
[0, 255], or the features that the cache holds. With a GPU, worker processes prepare the next groups in pinned memory;
threads would compete with the one that feeds the GPU for the interpreter lock. On the CPU a group is prepared when it
is requested.
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
"""Images, each with the id of a prompt for error messages."""


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
            # Returned, because an error raised in a worker arrives wrapped in the worker's traceback.
            return error


def loaded(
    parts: Sequence[Part], processor: MGMProcessor, cache: FeatureCache | None, *, workers: int, pin: bool
) -> Iterator[Tensor | TowerFeatures]:
    """Yield each group's squares, or its features if there is a cache (which must hold them), in order.

    Args:
        workers: number of processes; 0 prepares in this process.
        pin: use pinned memory, for asynchronous copies to a GPU.

    Raises:
        ImageError: an image that cannot be read; the message names the prompt.
    """
    loader: DataLoader[Tensor | TowerFeatures | ImageError | EnvironmentFault] = DataLoader(
        _Parts(parts, processor, cache), batch_size=None, num_workers=min(workers, len(parts)), pin_memory=pin
    )
    for item in loader:
        if isinstance(item, ImageError | EnvironmentFault):
            raise item
        yield item


def workers_for(device: torch.device, cores: int) -> int:
    """Number of worker processes for a model on ``device``: none for the CPU, else one per core up to 16."""
    return 0 if device.type == "cpu" else min(16, cores)
