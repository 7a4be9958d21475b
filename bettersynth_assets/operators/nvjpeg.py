"""JPEG files decoded and resized on the GPU. In: paths and resizings. Out: chunks of uint8 tensors on the device.

Plain JPEG files (baseline or progressive, grey or YCbCr, no rotation, whole, up to ``LARGEST`` pixels a side) are
decoded by nvJPEG, which differs from Pillow's decoder by rounding and by how it enlarges colour. All others, and those
that nvJPEG refuses, are Pillow's, whose word on what is broken holds. Resizing is Pillow's arithmetic as two matrix
products, across and then down, with its rounding in between. (Pillow 13 goes down first in some tall images, where
the rounding then differs.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bettersynth_assets.operators.batching import one_core_threads
from bettersynth_assets.operators.decoding import Chunk, one_ahead
from bettersynth_assets.operators.pixels import Resizing, filter_weights
from bettersynth_assets.records.images import ImageError, open_rgb

LARGEST = 1024
AT_ONCE = 256
"""Files that are decoded by one call, and resized in one padded tensor."""
READ_TOGETHER = 32
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, as Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}


def device_chunks(paths: Sequence[Path], size: int, prepares: Sequence[Resizing], device: str) -> Iterator[Chunk]:
    """``decoding.chunks`` on a GPU; reading, decoding and the caller's work overlap."""
    import torch

    stream = torch.cuda.Stream(device)
    starts = range(0, len(paths), size)
    with one_core_threads() as pool:
        read = one_ahead((first, _read(paths[first : first + size], pool)) for first in starts)
        made = one_ahead(
            _decoded(first, files, paths[first : first + size], prepares, stream, pool) for first, files in read
        )
        for chunk, done in made:
            current = torch.cuda.current_stream(device)
            current.wait_event(done)
            for tensor in chunk.inputs:
                tensor.record_stream(current)
            yield chunk


def plain_size(data: bytes) -> tuple[int, int] | None:
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


def _is_grey_or_ycbcr(components: bytes) -> bool:
    """Of a frame header from its number of components on: three bytes for each, its id first."""
    ids = components[1::3]
    return components[0] == 1 or (components[0] == 3 and ids[:3] != b"RGB")


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file for nvJPEG, (bytes,) uint8."""

    data: Any


def _read(paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[_File | None]:
    """Plain files; None for those that are Pillow's."""
    import torch

    def some(first: int) -> list[_File | None]:
        found: list[_File | None] = []
        for path in paths[first : first + READ_TOGETHER]:
            try:
                data = path.read_bytes()
            except OSError:
                found.append(None)
                continue
            plain = plain_size(data) is not None
            found.append(_File(data=torch.frombuffer(bytearray(data), dtype=torch.uint8)) if plain else None)
        return found

    return [file for part in pool.map(some, range(0, len(paths), READ_TOGETHER)) for file in part]


def _decoded(
    first: int,
    files: Sequence[_File | None],
    paths: Sequence[Path],
    prepares: Sequence[Resizing],
    stream: Any,
    pool: ThreadPoolExecutor,
) -> tuple[Chunk, Any]:
    """A chunk, and the event after which its tensors are there."""
    import torch

    device = stream.device
    with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(stream):
        by_pillow = {at: pool.submit(_open, paths[at], prepares) for at, file in enumerate(files) if file is None}
        tensors = [
            torch.empty((len(files), prepare.height, prepare.width, 3), dtype=torch.uint8, device=device)
            for prepare in prepares
        ]
        plain = [at for at, file in enumerate(files) if file is not None]
        for start in range(0, len(plain), AT_ONCE):
            part = plain[start : start + AT_ONCE]
            images = _nvjpeg([files[at].data for at in part], device)  # type: ignore[union-attr]
            by_pillow |= {
                at: pool.submit(_open, paths[at], prepares)
                for at, image in zip(part, images, strict=True)
                if image is None
            }
            there = [(at, image) for at, image in zip(part, images, strict=True) if image is not None]
            if there:
                to = torch.tensor([at for at, _ in there], device=device)
                for tensor, prepare in zip(tensors, prepares, strict=True):
                    tensor[to] = resized([image for _, image in there], prepare)
        errors: dict[int, ImageError] = {}
        for at, future in sorted(by_pillow.items()):
            found = future.result()
            if isinstance(found, ImageError):
                errors[at] = found
                continue
            for tensor, value in zip(tensors, found, strict=True):
                tensor[at] = value.to(device)
        good = [at for at in range(len(files)) if at not in errors]
        if errors:
            tensors = [tensor[torch.tensor(good, dtype=torch.long, device=device)] for tensor in tensors]
        chunk = Chunk(
            first=first,
            good=[first + at for at in good],
            errors={first + at: error for at, error in errors.items()},
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


def resized(images: Sequence[Any], to: Resizing) -> Any:
    """Resize decoded images as ``to`` does.

    Args:
        images: (3, H, W) uint8 tensors of any sizes on one device, B of them.
        to: the resizing.

    Returns:
        (B, height, width, 3) uint8.
    """
    import torch

    device = images[0].device
    sizes = [(int(image.shape[2]), int(image.shape[1])) for image in images]
    wide, high = max(width for width, _ in sizes), max(height for _, height in sizes)
    padded = torch.empty((len(images), 3, high, wide), dtype=torch.uint8, device=device)
    places = [padded[at, :, :height, :width] for at, (width, height) in enumerate(sizes)]
    torch._foreach_copy_(places, list(images))
    across, down = [], []
    for width, height in sizes:
        frame = to.frame(width, height)
        across.append((width, frame.width, frame.left, to.width, to.resample))
        down.append((height, frame.height, frame.top, to.height, to.resample))
    rows = padded.flatten(1, 2).float() @ _matrices(across, wide, device).mT  # (B, 3 * high, width)
    rows = _grey(rows).unflatten(1, (3, high))
    made = _grey(_matrices(down, high, device).unsqueeze(1) @ rows)  # (B, 3, height, width)
    return made.to(torch.uint8).permute(0, 2, 3, 1)


def _grey(values: Any) -> Any:
    """Rounded as Pillow rounds, in place."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def _matrices(wanted: Sequence[tuple[int, int, int, int, int]], columns: int, device: Any) -> Any:
    """(B, count, columns): the weights of each image, zero beyond its edge."""
    import torch

    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(wanted))}
    table = torch.zeros((len(kinds), wanted[0][3], columns), device=device)
    places = [table[at, :, : kind[0]] for kind, at in kinds.items()]
    torch._foreach_copy_(places, [_weights(*kind, str(device)) for kind in kinds])
    return table[torch.tensor([kinds[kind] for kind in wanted], device=device)]


@lru_cache(maxsize=4096)
def _weights(edge: int, to: int, first: int, count: int, resample: int, device: str) -> Any:
    import torch

    return torch.from_numpy(filter_weights(edge, to, first, count, resample)).to(device)
