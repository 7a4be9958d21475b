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
from typing import Any

from bettersynth_assets.images.decoding import Chunk, one_ahead, one_core_threads, opened_one
from bettersynth_assets.images.gpu.device_resizing import resized
from bettersynth_assets.images.gpu.nvjpeg_library import Decoder, Images
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.pixels import Resizing
from bettersynth_assets.images.reading import Place, read_plain

AT_ONCE = 256
"""Files that are read together, decoded by one call and resized together."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Consecutive files of a chunk, decoded."""

    first: int
    paths: Sequence[Path]
    ends_chunk: bool
    images: Images | None
    at: list[int]
    """Index in the part of each decoded image; Pillow decodes the part's other files."""
    ready: Any
    """CUDA event, complete when the images are decoded."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """A resized part; positions are among all files."""

    good: list[int]
    errors: dict[int, ImageError]
    tensors: list[Any]


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """Decode like ``decoding.pillow_chunks``, on a GPU; reading, decoding, resizing and the caller's work overlap."""
    import torch

    # High priority: these short kernels would otherwise wait for the model's long ones.
    decoding, resizing = (torch.cuda.Stream(device, priority=-1) for _ in range(2))
    with one_core_threads() as pool:
        for chunk, done in one_ahead(_resized(one_ahead(_decoded(paths, size, decoding)), prepares, pool, resizing)):
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for tensor in chunk.inputs:
                tensor.record_stream(current)
            yield chunk


def _decoded(paths: Sequence[Path], size: int, stream: Any) -> Iterator[_Part]:
    import torch

    parts = [
        (first, min(first + AT_ONCE, end), end)
        for begin in range(0, len(paths), size)
        for end in [min(begin + size, len(paths))]
        for first in range(begin, end, AT_ONCE)
    ]
    names = [[str(path) for path in paths[first:last]] for first, last, _ in parts]
    before: _Part | None = None
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        try:
            for number, ((first, last, end), (slot, places)) in enumerate(zip(parts, read_plain(names), strict=True)):
                plain = {at: place for at, place in enumerate(places) if place is not None}
                images = _images(slot, plain, stream, number % 2)
                ready = torch.cuda.Event(blocking=True)
                ready.record(stream)
                if before:
                    before.ready.synchronize()  # the next part reuses its slot and its decoder
                    yield before
                before = _Part(
                    first=first,
                    paths=paths[first:last],
                    ends_chunk=last == end,
                    images=images,
                    at=[*plain],
                    ready=ready,
                )
            if before:
                before.ready.synchronize()
                yield before
        finally:
            stream.synchronize()  # the slots that it reads are reused, even if the caller stopped early


def _images(slot: Any, plain: dict[int, Place], stream: Any, turn: int) -> Images | None:
    """Decode files of a slot; remove those that nvJPEG refuses from ``plain``."""
    device = str(stream.device)
    if not plain:
        return None
    images = _decoder(device, AT_ONCE, turn).decode(slot, [*plain.values()], stream)
    if images is None:
        alone = _decoder(device, 1, 0)
        for at, place in [*plain.items()]:
            if alone.decode(slot, [place], stream) is None:
                del plain[at]
        images = _decoder(device, AT_ONCE, turn).decode(slot, [*plain.values()], stream) if plain else None
    return images


@lru_cache(maxsize=8)
def _decoder(device: str, batch: int, turn: int) -> Decoder:
    """Return a cached decoder. Two decoders alternate (``turn``), so that consecutive batches overlap."""
    return Decoder(device, batch)


def _resized(
    parts: Iterator[_Part], prepares: Sequence[Resizing], pool: ThreadPoolExecutor, stream: Any
) -> Iterator[tuple[Chunk, Any]]:
    """Yield chunks, each with a CUDA event that is complete when its tensors are ready."""
    import torch

    chunk: list[_Inputs] = []
    first = 0
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for part in parts:
            stream.wait_event(part.ready)
            chunk.append(_inputs(part, prepares, pool))
            if part.images:
                part.images.memory.record_stream(stream)
            if part.ends_chunk:
                yield _joined(chunk, first), stream.record_event()
                chunk, first = [], part.first + len(part.paths)


def _inputs(part: _Part, prepares: Sequence[Resizing], pool: ThreadPoolExecutor) -> _Inputs:
    """Apply all ``prepares`` to a part, while threads decode the files that Pillow handles."""
    import torch

    decoded = {*part.at} if part.images else set()
    by_pillow = {
        at: pool.submit(opened_one, path, lambda rgb: [prepare(rgb) for prepare in prepares])
        for at, path in enumerate(part.paths)
        if at not in decoded
    }
    tensors: list[Any] = [resized(part.images, prepare) if part.images else None for prepare in prepares]
    found: dict[int, Any] = {at: future.result() for at, future in by_pillow.items()}
    errors = {at: error for at, error in found.items() if isinstance(error, ImageError)}
    good = [at for at in range(len(part.paths)) if at not in errors]
    if found:
        device = part.ready.device
        from_gpu = torch.tensor([row for row, at in enumerate(good) if at not in found], device=device)
        for number, prepare in enumerate(prepares):
            rows = torch.empty((len(good), prepare.height, prepare.width, 3), dtype=torch.uint8, device=device)
            if part.images:
                rows[from_gpu] = tensors[number]
            for row, at in enumerate(good):
                if at in found:
                    rows[row] = found[at][number].to(device)
            tensors[number] = rows
    return _Inputs(
        good=[part.first + at for at in good],
        errors={part.first + at: error for at, error in errors.items()},
        tensors=tensors,
    )


def _joined(parts: Sequence[_Inputs], first: int) -> Chunk:
    import torch

    return Chunk(
        first=first,
        good=[at for part in parts for at in part.good],
        errors={at: error for part in parts for at, error in part.errors.items()},
        inputs=[torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)],
    )
