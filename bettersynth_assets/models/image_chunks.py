"""Image files as inputs of models. In: paths and how each model prepares an image. Out: chunks of stacked inputs.

Chooses the decoder: Pillow in threads, or nvJPEG on the GPU. Each file is decoded once for all models that read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bettersynth_assets.images.decoding import Chunk, Prepare, pillow_chunks
from bettersynth_assets.images.gpu.nvjpeg import device_chunks
from bettersynth_assets.images.pixels import Resizing


def chunks(
    paths: Sequence[Path], size: int, prepares: Sequence[Prepare], *, decode: str = "pillow", device: str = "cpu"
) -> Iterator[Chunk]:
    """Decode files, one chunk ahead of the caller.

    Args:
        paths: files, in order.
        size: files per chunk.
        prepares: from an RGB image to a tensor of one shape, e.g. the resizing to a model's input, or to anything else.
        decode: ``pillow``, or ``nvjpeg``, which is used where every one of ``prepares`` is a ``Resizing``.
        device: torch device, for ``nvjpeg``.
    """
    resizings = [prepare for prepare in prepares if isinstance(prepare, Resizing)]
    if decode == "nvjpeg" and paths and len(resizings) == len(prepares):
        return device_chunks(paths, size, resizings, device)
    return pillow_chunks(paths, size, prepares)
