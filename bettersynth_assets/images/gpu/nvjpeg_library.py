"""Bindings of nvJPEG. In: JPEG files in memory. Out: their pixels on the GPU, decoded by its hardware decoders.

Replaces ``torchvision.io.decode_jpeg``, which calls the same library but initializes a batch in every call and blocks
the host for each image. Gain: 18,200 instead of about 12,000 pairs/s of CLIP ViT-B/32 on one H200
(docs/results/scoring.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.errors import DeviceError
from bettersynth_assets.images.reading import Span

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_RGB = 3
"""NVJPEG_OUTPUT_RGB: planar."""
_HARDWARE, _GPU = 3, 2
"""NVJPEG_BACKEND_HARDWARE: engines of data centre GPUs; NVJPEG_BACKEND_GPU_HYBRID: multiprocessors of any GPU."""
_NO_PIPELINE = 1
"""NVJPEG_FLAGS_HW_DECODE_NO_PIPELINE: start an image without waiting for the previous one."""


class Images(NamedTuple):
    """Decoded images of any sizes in one tensor on a GPU, each contiguous (3, height, width) uint8."""

    memory: Tensor
    """(bytes,) uint8"""
    starts: NDArray[np.int64]
    """(B,): offset of each image in bytes."""
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def in_one_tensor(widths: NDArray[np.int64], heights: NDArray[np.int64], device: torch.device) -> Images:
    """Allocate memory for images, each aligned to 512 bytes."""
    import torch

    ends = np.cumsum(-(-3 * widths * heights // 512) * 512)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    memory = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.uint8, device=device)
    return Images(memory, starts, widths, heights)


class Decoder:
    """nvJPEG decoder for batches of one size on one stream."""

    def __init__(self, device: str, batch: int) -> None:
        """Create the decoder for a device and a batch size.

        Raises:
            DeviceError: the library is not installed, or refuses the GPU.
        """
        import torch

        self._library, self._batch = _library(), batch
        self._handle, self._state = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            for backend in (_HARDWARE, _GPU):
                flags = ctypes.c_uint(_NO_PIPELINE if backend == _HARDWARE else 0)
                status = self._library.nvjpegCreateEx(backend, None, None, flags, ctypes.byref(self._handle))
                if status == 0:
                    break
            status = status or self._library.nvjpegJpegStateCreate(self._handle, ctypes.byref(self._state))
            status = status or self._library.nvjpegDecodeBatchedInitialize(self._handle, self._state, batch, 1, _RGB)
        if status:
            raise DeviceError(f"nvJPEG cannot be used on {device} (status {status}): set `gpu.decode: pillow`")

    def decode(self, slot: Tensor, spans: Sequence[Span], stream: torch.cuda.Stream) -> Images | None:
        """Enqueue the decoding of files on a stream.

        Args:
            slot: (bytes,) uint8 with the files; must not change until the stream has finished decoding.
            spans: positions of 1 to ``batch`` files in the slot.
            stream: the GPU's current stream.

        Returns:
            The images, valid once the stream has finished decoding; None if nvJPEG refuses one of the files.
        """
        begin, end, widths, heights = np.array(spans, np.int64).T
        images = in_one_tensor(widths, heights, stream.device)
        # The unused entries of a partial batch decode the first file again, into the same memory.
        row = np.arange(self._batch)
        row[len(spans) :] = 0
        files = (slot.data_ptr() + begin)[row].astype(np.uint64)
        lengths = (end - begin)[row].astype(np.uint64)
        into = np.zeros((self._batch, 8), np.uint64)  # nvjpegImage_t: 4 plane pointers, 4 pitches
        planes = images.memory.data_ptr() + images.starts[:, None] + (widths * heights)[:, None] * np.arange(3)
        into[:, :3], into[:, 4:7] = planes[row], widths[row, None]
        status = self._library.nvjpegDecodeBatched(
            self._handle, self._state, *(ctypes.c_void_p(array.ctypes.data) for array in (files, lengths, into)),
            ctypes.c_void_p(stream.cuda_stream),
        )  # fmt: skip
        return None if status else images


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Load libnvjpeg from torchvision's wheel, from NVIDIA's packages or from the system."""
    import torch
    import torchvision

    packages = Path(torchvision.__file__).parents[1]
    bundled = [*packages.glob("torchvision.libs/libnvjpeg*"), *packages.glob("nvidia/*/lib/libnvjpeg.so.*")]
    for name in [*map(str, bundled), f"libnvjpeg.so.{str(torch.version.cuda).split('.')[0]}"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        "`gpu.decode: nvjpeg` needs NVIDIA's libnvjpeg: pip install nvidia-nvjpeg, or set `decode: pillow`"
    )
