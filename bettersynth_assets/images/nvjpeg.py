"""JPEG files decoded and resized on the GPU. In: paths and resizings. Out: chunks of uint8 tensors on the device.

Plain JPEG files (baseline or progressive, grey or YCbCr, no rotation, whole, up to ``reading.LARGEST`` pixels a side)
are decoded by nvJPEG, which differs from Pillow's decoder by rounding and by how it enlarges colour. All others, and
those that nvJPEG refuses, are Pillow's, whose word on what is broken holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bettersynth_assets.images.decoding import Chunk, one_ahead, one_core_threads
from bettersynth_assets.images.device_resizing import resized
from bettersynth_assets.images.pixels import Resizing
from bettersynth_assets.images.reading import read_plain
from bettersynth_assets.records.images import ImageError, open_rgb

AT_ONCE = 256
"""Files that are read together, decoded by one call, and resized in one padded tensor."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Consecutive files of a chunk, decoded."""

    first: int
    paths: Sequence[Path]
    ends_chunk: bool
    images: list[Any]
    """(3, H, W) uint8 on the device; None where the file is Pillow's."""
    ready: Any
    """The event after which the images are there."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """A part, resized; positions among all files."""

    good: list[int]
    errors: dict[int, ImageError]
    tensors: list[Any]


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """``decoding.chunks`` on a GPU; reading, decoding, resizing and the caller's work overlap."""
    import torch

    # Their short kernels go before the model's long ones, or the next images would be ready only after the model.
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
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for (first, last, end), (slot, places) in zip(parts, read_plain(names), strict=True):
            files = [None if place is None else slot[place.begin : place.end] for place in places]
            images = iter(_nvjpeg([file for file in files if file is not None], stream.device))
            found = [None if file is None else next(images) for file in files]
            ready = stream.record_event()
            ready.synchronize()  # the slot is another part's from now on
            yield _Part(
                first=first,
                paths=paths[first:last],
                ends_chunk=last == end,
                images=found,
                ready=ready,
            )


def _nvjpeg(files: list[Any], device: Any) -> list[Any]:
    """(3, H, W) uint8 of each file; None where nvJPEG refuses it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if not files:
        return []
    try:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))
    except RuntimeError:
        if len(files) == 1:
            return [None]
    return [_nvjpeg([file], device)[0] for file in files]


def _resized(
    parts: Iterator[_Part], prepares: Sequence[Resizing], pool: ThreadPoolExecutor, stream: Any
) -> Iterator[tuple[Chunk, Any]]:
    """Chunks, and the event after which the tensors of each are there."""
    import torch

    # nvJPEG writes on a stream of its own, so images must live until what reads them here is over.
    held: deque[tuple[Any, list[Any]]] = deque()
    chunk: list[_Inputs] = []
    first = 0
    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for part in parts:
            stream.wait_event(part.ready)
            chunk.append(_inputs(part, prepares, pool))
            done = stream.record_event()
            held.append((done, part.images))
            while len(held) > 2:
                held.popleft()[0].synchronize()
            if part.ends_chunk:
                yield _joined(chunk, first), stream.record_event()
                chunk, first = [], part.first + len(part.paths)
        stream.synchronize()


def _inputs(part: _Part, prepares: Sequence[Resizing], pool: ThreadPoolExecutor) -> _Inputs:
    """What all ``prepares`` make of a part; Pillow's files in threads meanwhile."""
    import torch

    device = part.ready.device
    by_pillow = {
        at: pool.submit(_open, part.paths[at], prepares) for at, image in enumerate(part.images) if image is None
    }
    images = [image for image in part.images if image is not None]
    tensors: list[Any] = [resized(images, prepare) if images else None for prepare in prepares]
    found: dict[int, Any] = {at: future.result() for at, future in by_pillow.items()}
    errors = {at: error for at, error in found.items() if isinstance(error, ImageError)}
    good = [at for at in range(len(part.images)) if at not in errors]
    if found:
        from_gpu = torch.tensor([row for row, at in enumerate(good) if at not in found], device=device)
        for number, prepare in enumerate(prepares):
            rows = torch.empty((len(good), prepare.height, prepare.width, 3), dtype=torch.uint8, device=device)
            if images:
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


def _open(path: Path, prepares: Sequence[Resizing]) -> list[Any] | ImageError:
    try:
        rgb = open_rgb(path)
    except ImageError as error:
        return error
    return [prepare(rgb) for prepare in prepares]
