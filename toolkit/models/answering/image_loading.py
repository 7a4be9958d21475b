"""Images of prompts, decoded and resized ahead of the model.

In: groups of P images, in the order in which the model needs them. Out: per group the result of ``prepare``, e.g. uint8
squares (P, S, S, 3), range [0, 255]. With a GPU, worker processes prepare the next groups in pinned memory;
threads would compete with the one that feeds the GPU for the interpreter lock. On the CPU a group is prepared when it
is requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.data.protocols import Processor
from toolkit.file_errors import EnvironmentFault
from toolkit.images.reading import ImageError, read_image

ImageSource = Path | bytes
ImageGroup = Sequence[tuple[ImageSource, str]]
"""Images, each with the id of a prompt for error messages."""
T = TypeVar("T")


class _Groups(Dataset[T | ImageError | EnvironmentFault], Generic[T]):
    def __init__(self, groups: Sequence[ImageGroup], prepare: Callable[[ImageGroup], T]) -> None:
        self.groups, self.prepare = groups, prepare

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> T | ImageError | EnvironmentFault:
        try:
            return self.prepare(self.groups[number])
        except (ImageError, EnvironmentFault) as error:
            # Returned, because an error raised in a worker arrives wrapped in the worker's traceback.
            return error


def loaded(groups: Sequence[ImageGroup], prepare: Callable[[ImageGroup], T], *, workers: int, pin: bool) -> Iterator[T]:
    """Yield the result of ``prepare`` for each group, in order.

    Args:
        workers: number of processes; 0 prepares in this process.
        pin: use pinned memory, for asynchronous copies to a GPU.

    Raises:
        ImageError: an image that cannot be read; the message names the prompt.
    """
    loader: DataLoader[T | ImageError | EnvironmentFault] = DataLoader(
        _Groups(groups, prepare), batch_size=None, num_workers=min(workers, len(groups)), pin_memory=pin
    )
    for prepared in loader:
        if isinstance(prepared, ImageError | EnvironmentFault):
            raise prepared
        yield prepared


def padded_squares(processor: Processor, group: ImageGroup) -> Tensor:
    """Return a group's images padded to squares, (P, S, S, 3) uint8."""
    return processor.squares([read_image(image, sample_id=id_) for image, id_ in group], aspect="pad")


def workers_for(device: torch.device, cores: int) -> int:
    """Number of worker processes for a model on ``device``: none for the CPU, else one per core up to 16."""
    return 0 if device.type == "cpu" else min(16, cores)
