"""JPEG files decoded and resized on the GPU. In: paths and resizings. Out: chunks of uint8 tensors on the device.

Plain JPEG files (baseline or progressive, grey or YCbCr, no rotation, whole, up to ``LARGEST`` pixels a side) are
decoded by nvJPEG, which differs from Pillow's decoder by rounding and by how it enlarges colour. All others, and those
that nvJPEG refuses, are Pillow's, whose word on what is broken holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bettersynth_assets.operators.batching import one_core_threads
from bettersynth_assets.operators.decoding import Chunk, one_ahead
from bettersynth_assets.operators.device_resizing import resized
from bettersynth_assets.operators.pixels import Resizing
from bettersynth_assets.records.images import ImageError, open_rgb

LARGEST = 1024
AT_ONCE = 256
"""Files that are decoded by one call, and resized in one padded tensor."""
READ_TOGETHER = 128
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, as Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """``decoding.chunks`` on a GPU; reading, decoding, resizing and the caller's work overlap."""
    import torch

    starts = range(0, len(paths), size)
    with one_core_threads() as pool:
        read = one_ahead(_read(first, paths[first : first + size], pool) for first in starts)
        decoding, resizing = torch.cuda.Stream(device), torch.cuda.Stream(device)
        decoded = one_ahead(_decoded(files, decoding) for files in read)
        for chunk, done in one_ahead(_resized(files, prepares, pool, resizing) for files in decoded):
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for tensor in chunk.inputs:
                tensor.record_stream(current)
            yield chunk


def plain_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """Width and height of a file that nvJPEG decodes as Pillow does; None for every other."""
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9", len(data) - 64) < 0:
        return None  # not a JPEG, or its end is missing
    at = 2
    while at + 10 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            is_plain = data[at + 4] == 8 and _is_grey_or_ycbcr(data[at + 9 : at + 2 + length])
            return (width, height) if is_plain and 0 < width <= LARGEST and 0 < height <= LARGEST else None
        # APP1 holds the rotation; APP14 may say that the colours are RGB or CMYK.
        if marker in (0xE1, 0xEE, 0xD9, 0xDA) or marker in _OTHER_FRAMES:
            return None
        at += 2 + length
    return None


def _is_grey_or_ycbcr(components: bytes | bytearray) -> bool:
    """Of a frame header from its number of components on: three bytes for each, its id first."""
    ids = components[1::3]
    return components[0] == 1 or (components[0] == 3 and ids[:3] != b"RGB")


@dataclass(kw_only=True)
class _Files:
    """A chunk on its way: what each file is until now, None where it is Pillow's."""

    first: int
    paths: Sequence[Path]
    found: list[Any]
    """First the bytes, (n,) uint8; then the image, (3, H, W) uint8 on the device."""
    ready: Any = None
    """The event after which the images are there."""


def _read(first: int, paths: Sequence[Path], pool: ThreadPoolExecutor) -> _Files:
    import torch

    def some(start: int) -> list[Any]:
        data = [_bytes(path) for path in paths[start : start + READ_TOGETHER]]
        plain = [found if found is not None and plain_size(found) is not None else None for found in data]
        return [None if found is None else torch.frombuffer(found, dtype=torch.uint8) for found in plain]

    parts = pool.map(some, range(0, len(paths), READ_TOGETHER))
    return _Files(first=first, paths=paths, found=[file for part in parts for file in part])


def _bytes(path: Path) -> bytearray | None:
    """A file's bytes; by the system's own calls, because each row of a fast model has some twenty microseconds."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        data = bytearray(os.fstat(file).st_size)
        return data if os.readv(file, [data]) == len(data) else None
    except OSError:
        return None
    finally:
        os.close(file)


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
