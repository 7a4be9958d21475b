"""Decodes and resizes JPEG files on the GPU. In: paths and resizings. Out: chunks of uint8 tensors on the device.

Replaces ``images.decoding.pillow_chunks``. Gain: CLIP ViT-B/32 in bfloat16 scores 16,444 pairs/s with it on one H200;
with Pillow in threads and the model in float32, 905/s (docs/results/scoring.md).

nvJPEG decodes plain JPEG files (baseline, grey or YCbCr, no rotation, complete, sides up to ``reading.LARGEST``
pixels). It differs from Pillow's decoder in rounding and in chroma upsampling. Pillow decodes all other files and those
that nvJPEG refuses, so Pillow decides which files count as broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bettersynth_assets.images.decoding import Chunk, one_core_threads, opened_one, prefetched
from bettersynth_assets.images.gpu.device_resizing import resized
from bettersynth_assets.images.gpu.nvjpeg_library import Decoder, Images
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.pixels import Resizing
from bettersynth_assets.images.reading import Span, read_plain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AT_ONCE = 256
"""Files that are read together, decoded by one call and resized together."""


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Consecutive files of a chunk, decoded."""

    first: int
    paths: Sequence[Path]
    ends_chunk: bool
    images: Images | None
    indices: list[int]
    """Index in the batch of each decoded image; Pillow decodes the batch's other files."""
    ready: torch.cuda.Event
    """CUDA event, complete when the images are decoded."""


@dataclass(frozen=True, kw_only=True)
class _ResizedBatch:
    """A resized batch; positions are among all files."""

    good: list[int]
    errors: dict[int, ImageError]
    tensors: list[Tensor]


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """Decode like ``decoding.pillow_chunks``, on a GPU; reading, decoding, resizing and the caller's work overlap."""
    import torch

    # High priority: these short kernels would otherwise wait for the model's long ones.
    decoding, resizing = (torch.cuda.Stream(device, priority=-1) for _ in range(2))
    with one_core_threads() as pool:
        for chunk, ready in prefetched(_resized(prefetched(_decoded(paths, size, decoding)), prepares, pool, resizing)):
            current = torch.cuda.current_stream(device)
            current.wait_event(ready)
            for tensor in chunk.inputs:
                tensor.record_stream(current)
            yield chunk


def _decoded(paths: Sequence[Path], size: int, stream: torch.cuda.Stream) -> Iterator[_Batch]:
    import torch

    ranges = [
        (first, min(first + AT_ONCE, end), end)
        for begin in range(0, len(paths), size)
        for end in [min(begin + size, len(paths))]
        for first in range(begin, end, AT_ONCE)
    ]
    names = [[str(path) for path in paths[first:last]] for first, last, _ in ranges]
    previous: _Batch | None = None
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        try:
            for number, ((first, last, end), (slot, spans)) in enumerate(zip(ranges, read_plain(names), strict=True)):
                plain = {index: span for index, span in enumerate(spans) if span is not None}
                images = _images(slot, plain, stream, number % 2)
                ready = torch.cuda.Event(blocking=True)
                ready.record(stream)
                if previous:
                    previous.ready.synchronize()  # the next batch reuses its slot and its decoder
                    yield previous
                previous = _Batch(
                    first=first,
                    paths=paths[first:last],
                    ends_chunk=last == end,
                    images=images,
                    indices=[*plain],
                    ready=ready,
                )
            if previous:
                previous.ready.synchronize()
                yield previous
        finally:
            stream.synchronize()  # the slots that it reads are reused, even if the caller stopped early


def _images(slot: Tensor, plain: dict[int, Span], stream: torch.cuda.Stream, turn: int) -> Images | None:
    """Decode files of a slot; remove those that nvJPEG refuses from ``plain``."""
    device = str(stream.device)
    if not plain:
        return None
    images = _decoder(device, AT_ONCE, turn).decode(slot, [*plain.values()], stream)
    if images is None:
        single_decoder = _decoder(device, 1, 0)
        for index, span in [*plain.items()]:
            if single_decoder.decode(slot, [span], stream) is None:
                del plain[index]
        images = _decoder(device, AT_ONCE, turn).decode(slot, [*plain.values()], stream) if plain else None
    return images


@lru_cache(maxsize=8)
def _decoder(device: str, batch: int, turn: int) -> Decoder:
    """Return a cached decoder. Two decoders alternate (``turn``), so that consecutive batches overlap."""
    return Decoder(device, batch)


def _resized(
    batches: Iterator[_Batch], prepares: Sequence[Resizing], pool: ThreadPoolExecutor, stream: torch.cuda.Stream
) -> Iterator[tuple[Chunk, torch.cuda.Event]]:
    """Yield chunks, each with a CUDA event that is complete when its tensors are ready."""
    import torch

    chunk: list[_ResizedBatch] = []
    first = 0
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for batch in batches:
            stream.wait_event(batch.ready)
            chunk.append(_inputs(batch, prepares, pool))
            if batch.images:
                batch.images.memory.record_stream(stream)
            if batch.ends_chunk:
                yield _as_chunk(chunk, first), stream.record_event()
                chunk, first = [], batch.first + len(batch.paths)


def _inputs(batch: _Batch, prepares: Sequence[Resizing], pool: ThreadPoolExecutor) -> _ResizedBatch:
    """Apply all ``prepares`` to a batch, while threads decode the files that Pillow handles."""
    import torch

    decoded = {*batch.indices} if batch.images else set()
    by_pillow = {
        index: pool.submit(opened_one, path, lambda rgb: [prepare(rgb) for prepare in prepares])
        for index, path in enumerate(batch.paths)
        if index not in decoded
    }
    tensors: list[Any] = [resized(batch.images, prepare) if batch.images else None for prepare in prepares]
    pillow_results: dict[int, Any] = {index: future.result() for index, future in by_pillow.items()}
    errors = {index: error for index, error in pillow_results.items() if isinstance(error, ImageError)}
    good = [index for index in range(len(batch.paths)) if index not in errors]
    if pillow_results:
        device = batch.ready.device
        from_gpu = torch.tensor([row for row, index in enumerate(good) if index not in pillow_results], device=device)
        for number, prepare in enumerate(prepares):
            rows = torch.empty((len(good), prepare.height, prepare.width, 3), dtype=torch.uint8, device=device)
            if batch.images:
                rows[from_gpu] = tensors[number]
            for row, index in enumerate(good):
                if index in pillow_results:
                    rows[row] = pillow_results[index][number].to(device)
            tensors[number] = rows
    return _ResizedBatch(
        good=[batch.first + index for index in good],
        errors={batch.first + index: error for index, error in errors.items()},
        tensors=tensors,
    )


def _as_chunk(batches: Sequence[_ResizedBatch], first: int) -> Chunk:
    import torch

    return Chunk(
        first=first,
        good=[position for batch in batches for position in batch.good],
        errors={position: error for batch in batches for position, error in batch.errors.items()},
        inputs=[torch.cat(tensors) for tensors in zip(*(batch.tensors for batch in batches), strict=True)],
    )
