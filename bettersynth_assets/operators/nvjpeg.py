"""JPEG files decoded and resized on the GPU. In: paths and resizings. Out: chunks of uint8 tensors on the device.

Plain JPEG files (baseline or progressive, grey or YCbCr, no rotation, whole, up to ``LARGEST`` pixels a side) are
decoded by nvJPEG, which differs from Pillow's decoder by rounding and by how it enlarges colour. All others, and those
that nvJPEG refuses, are Pillow's, whose word on what is broken holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bettersynth_assets.operators.batching import one_core_threads
from bettersynth_assets.operators.decoding import Chunk, one_ahead
from bettersynth_assets.operators.device_resizing import resized
from bettersynth_assets.operators.pixels import Resizing
from bettersynth_assets.operators.reading import read_plain, readers
from bettersynth_assets.records.images import ImageError, open_rgb

AT_ONCE = 256
"""Files that are decoded by one call, and resized in one padded tensor."""
READ_TOGETHER = 256


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """``decoding.chunks`` on a GPU; reading, decoding, resizing and the caller's work overlap."""
    import torch

    with one_core_threads() as pool:
        decoding, resizing = torch.cuda.Stream(device), torch.cuda.Stream(device)
        decoded = one_ahead(_decoded(files, decoding) for files in _read(paths, size))
        for chunk, done in one_ahead(_resized(files, prepares, pool, resizing) for files in decoded):
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for tensor in chunk.inputs:
                tensor.record_stream(current)
            yield chunk


@dataclass(kw_only=True)
class _Files:
    """A chunk on its way: what each file is until now, None where it is Pillow's."""

    first: int
    paths: Sequence[Path]
    found: list[Any]
    """First the bytes, (n,) uint8; then the image, (3, H, W) uint8 on the device."""
    ready: Any = None
    """The event after which the images are there."""


def _read(paths: Sequence[Path], size: int) -> Iterator[_Files]:
    """Chunks of ``size`` files, read two chunks ahead."""
    pool, waiting = readers(), deque[list[Future[tuple[Any, list[int]]]]]()
    starts = range(0, len(paths), size)
    for position, first in enumerate(starts):
        for ahead in starts[position + len(waiting) : position + 3]:
            names = [str(path) for path in paths[ahead : ahead + size]]
            parts = range(0, len(names), READ_TOGETHER)
            waiting.append([pool.submit(read_plain, names[part : part + READ_TOGETHER]) for part in parts])
        read = [future.result() for future in waiting.popleft()]
        found = [data if len(data) else None for flat, sizes in read for data in flat.split(sizes)]
        yield _Files(first=first, paths=paths[first : first + size], found=found)


def _decoded(files: _Files, stream: Any) -> _Files:
    import torch

    with torch.inference_mode(), torch.cuda.device(stream.device), torch.cuda.stream(stream):
        plain = [at for at, data in enumerate(files.found) if data is not None]
        for start in range(0, len(plain), AT_ONCE):
            part = plain[start : start + AT_ONCE]
            images = _nvjpeg([files.found[at] for at in part], stream.device)
            for at, image in zip(part, images, strict=True):
                files.found[at] = image
        files.ready = stream.record_event()
    return files


def _resized(files: _Files, prepares: Sequence[Resizing], pool: ThreadPoolExecutor, stream: Any) -> tuple[Chunk, Any]:
    """The chunk, and the event after which its tensors are there."""
    import torch

    device, images = stream.device, files.found
    by_pillow = {at: pool.submit(_open, files.paths[at], prepares) for at, image in enumerate(images) if image is None}
    there = [at for at, image in enumerate(images) if image is not None]
    with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(stream):
        stream.wait_event(files.ready)
        for at in there:
            images[at].record_stream(stream)
        tensors = [
            torch.empty((len(images), prepare.height, prepare.width, 3), dtype=torch.uint8, device=device)
            for prepare in prepares
        ]
        for start in range(0, len(there), AT_ONCE):
            part = there[start : start + AT_ONCE]
            to = torch.tensor(part, device=device)
            for tensor, prepare in zip(tensors, prepares, strict=True):
                tensor[to] = resized([images[at] for at in part], prepare)
        errors: dict[int, ImageError] = {}
        for at, future in by_pillow.items():
            found = future.result()
            if isinstance(found, ImageError):
                errors[at] = found
                continue
            for tensor, value in zip(tensors, found, strict=True):
                tensor[at] = value.to(device)
        good = [at for at in range(len(images)) if at not in errors]
        if errors:
            tensors = [tensor[torch.tensor(good, dtype=torch.long, device=device)] for tensor in tensors]
        chunk = Chunk(
            first=files.first,
            good=[files.first + at for at in good],
            errors={files.first + at: error for at, error in errors.items()},
            inputs=tensors,
        )
        return chunk, stream.record_event()


def _open(path: Path, prepares: Sequence[Resizing]) -> list[Any] | ImageError:
    try:
        rgb = open_rgb(path)
    except ImageError as error:
        return error
    return [prepare(rgb) for prepare in prepares]


def _nvjpeg(files: list[Any], device: Any) -> list[Any]:
    """(3, H, W) uint8 of each file; None where nvJPEG refuses it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))
    except RuntimeError:
        if len(files) == 1:
            return [None]
    return [_nvjpeg([file], device)[0] for file in files]
