"""The nvJPEG library. In: JPEG files in memory. Out: their pixels on the GPU, decoded by the GPU's hardware decoders.

Replaces ``torchvision.io.decode_jpeg``, which calls the same library but sets up a batch again at each call and waits
on the host for each image. Gain: 18,200 instead of about 12,000 pairs/s of CLIP ViT-B/32 on one H200
(docs/results/scoring.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.errors import DeviceError
from bettersynth_assets.images.reading import Place

_RGB = 3
"""NVJPEG_OUTPUT_RGB, one plane after another"""
_HARDWARE, _GPU = 3, 2
"""NVJPEG_BACKEND_HARDWARE, the engines of data centre GPUs; NVJPEG_BACKEND_GPU_HYBRID, the multiprocessors of any"""
_NO_PIPELINE = 1
"""NVJPEG_FLAGS_HW_DECODE_NO_PIPELINE: no waiting for one image before the next is begun"""


class Images(NamedTuple):
    """Decoded images of any sizes in one tensor on a GPU; each is (3, height, width) uint8, contiguous."""

    memory: Any
    """(bytes,) uint8"""
    starts: NDArray[np.int64]
    """(B,): first byte of each"""
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def in_one_tensor(widths: NDArray[np.int64], heights: NDArray[np.int64], device: Any) -> Images:
    """Room for images, aligned."""
    import torch

    ends = np.cumsum(-(-3 * widths * heights // 512) * 512)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    memory = torch.empty(int(ends[-1]) if len(ends) else 0, dtype=torch.uint8, device=device)
    return Images(memory, starts, widths, heights)


class Decoder:
    """nvJPEG, set up for batches of one size; for one stream."""

    def __init__(self, device: str, batch: int) -> None:
        """Take the device and the files of a full batch.

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

    def decode(self, slot: Any, places: Sequence[Place], stream: Any) -> Images | None:
        """Begin to decode files.

        Args:
            slot: (bytes,) uint8, which the files lie in; must stay as it is until the stream has done it.
            places: of at most ``batch`` files, not none.
            stream: of the GPU; the current one.

        Returns:
            The images, there when the stream has done it; None where nvJPEG refuses one of them.
        """
        begin, end, widths, heights = np.array(places, np.int64).T
        images = in_one_tensor(widths, heights, stream.device)
        # Places of a batch that is not full decode its first file again, over itself.
        row = np.arange(self._batch)
        row[len(places) :] = 0
        files = (slot.data_ptr() + begin)[row].astype(np.uint64)
        lengths = (end - begin)[row].astype(np.uint64)
        into = np.zeros((self._batch, 8), np.uint64)  # nvjpegImage_t: four planes, four pitches
        planes = images.memory.data_ptr() + images.starts[:, None] + (widths * heights)[:, None] * np.arange(3)
        into[:, :3], into[:, 4:7] = planes[row], widths[row, None]
        status = self._library.nvjpegDecodeBatched(
            self._handle, self._state, *(ctypes.c_void_p(array.ctypes.data) for array in (files, lengths, into)),
            ctypes.c_void_p(stream.cuda_stream),
        )  # fmt: skip
        return None if status else images


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Torchvision brings the library along; NVIDIA's packages and the system may have it too."""
    import torch
    import torchvision

    packages = Path(torchvision.__file__).parents[1]
    brought = [*packages.glob("torchvision.libs/libnvjpeg*"), *packages.glob("nvidia/*/lib/libnvjpeg.so.*")]
    for name in [*map(str, brought), f"libnvjpeg.so.{str(torch.version.cuda).split('.')[0]}"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        "`gpu.decode: nvjpeg` needs NVIDIA's libnvjpeg: pip install nvidia-nvjpeg, or set `decode: pillow`"
    )
