"""Finds the batch size that fits a GPU, once. In: a loaded model. Out: a power of two, stored in a file with the data.

The last bits of scores depend on the batch size. It is therefore found once for each model, dtype and kind of GPU, and
then read from the file by every worker and every later run, regardless of the free memory; if that is too small,
``batching`` halves the size. On the CPU, where larger batches are not faster, it is a fixed number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import BatchSize
from toolkit.files import write_atomically
from toolkit.locks import locked_file

RequestedBatch = int | Literal["auto"]
MAX_BATCH = 2048
SHARE = 0.8
"""Share of the free memory to use; the rest is for longer captions, fragmentation and other uses of the GPU."""
PROBES = (8, 32)


class Meter(Protocol):
    """Memory of one device."""

    def free(self) -> int:
        """Bytes available beyond the current allocation."""

    def peak(self, run: Callable[[], object]) -> int:
        """Peak bytes beyond the current allocation while ``run`` runs."""


class BatchedModel(Protocol):
    """A loaded model."""

    device: str
    batch: BatchSize


def initial_batch(requested: RequestedBatch, default: int) -> int:
    """Return the batch size for loading a model; ``default`` if ``fit_batch`` will find it on a GPU."""
    return default if requested == "auto" else requested


def fit_batch(
    model: BatchedModel, run: Callable[[int], object], *, name: str, sizes_file: str | None, meter: Meter | None = None
) -> None:
    """Set a model's batch to the size that fits its GPU; no-op on the CPU.

    Args:
        model: the model, whose ``batch`` is replaced.
        run: processes that many rows with the model.
        name: name of the model and its dtype.
        sizes_file: file that stores sizes; None to find the size in each process.
        meter: memory of the model's device.
    """
    if meter is None:
        if not model.device.startswith("cuda"):
            return
        meter = CudaMeter(model.device)
        name = f"{name} {meter.name()}"

    def peak(rows: int) -> int:
        model.batch = BatchSize(rows)  # a model may allocate memory for a full batch, even for fewer rows
        return meter.peak(lambda: run(rows))

    def find() -> int:
        return largest_fitting(peak, meter.free)

    model.batch = BatchSize(find() if sizes_file is None else stored_number(Path(sizes_file), name, find))


def largest_fitting(peak: Callable[[int], int], free: Callable[[], int]) -> int:
    """Return the largest power of two, at most ``MAX_BATCH``, whose rows fit into ``SHARE`` of the free memory.

    Args:
        peak: bytes that a batch of that many rows needs; measured for two sizes and extrapolated linearly.
        free: bytes of free memory, requested afterwards.
    """
    small, large = (peak(rows) for rows in PROBES)
    per_row = max(1.0, (large - small) / (PROBES[1] - PROBES[0]))
    fixed_part = max(0.0, small - PROBES[0] * per_row)
    rows = int((SHARE * free() - fixed_part) / per_row)
    return min(MAX_BATCH, 1 << (max(1, rows).bit_length() - 1))


def stored_number(path: Path, name: str, find: Callable[[], int]) -> int:
    """Return the number stored in a file under a name; the first process to ask finds and stores it."""
    with locked_file(path.with_suffix(".lock")):
        try:
            numbers = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON ({error}): remove it to find the sizes again") from None
        if name not in numbers:
            numbers[name] = find()
            write_atomically(path, json.dumps(numbers, indent=1, sort_keys=True))
        return int(numbers[name])


class CudaMeter:
    """Memory of a GPU as reported by torch."""

    def __init__(self, device: str) -> None:
        self.device = device

    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self.device)

    def free(self) -> int:
        import torch

        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved(self.device)
        free, total = torch.cuda.mem_get_info(self.device)
        # Not available in the oldest supported torch.
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
        return min(free, int(share(self.device) * total) - held)

    def peak(self, run: Callable[[], object]) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        held = torch.cuda.memory_allocated(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - held
