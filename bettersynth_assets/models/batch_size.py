"""The batch size that fits a GPU, found once. In: a loaded model. Out: a power of two, kept in a file beside the data.

Scores depend on the batch size in their last bits, so it is found for each model, dtype and kind of GPU once, and then
taken from the file by every worker and every later run, however much memory is free then; where that is too little,
``batching`` halves it. On the CPU, where more rows at once are not faster, it is a fixed number.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.batching import BatchSize
from toolkit.files import write_atomically

Asked = int | Literal["auto"]
MOST = 2048
SHARE = 0.8
"""Of the free memory; the rest is for longer captions, fragments and what else is on the GPU."""
PROBES = (8, 32)


class Meter(Protocol):
    """Memory of one device."""

    def free(self) -> int:
        """Bytes that may be taken beyond what is held now."""

    def peak(self, run: Callable[[], object]) -> int:
        """Most bytes beyond those held now while ``run`` runs."""


class Batched(Protocol):
    """A loaded model."""

    device: str
    batch: BatchSize


def fixed(asked: Asked, otherwise: int) -> int:
    """The number to load a model with; ``otherwise`` where ``fit_batch`` will find one, if there is a GPU."""
    return otherwise if asked == "auto" else asked


def fit_batch(
    model: Batched, run: Callable[[int], object], *, name: str, kept: str | None, meter: Meter | None = None
) -> None:
    """Give a model on a GPU the batch that fits there; nothing to do on the CPU.

    Args:
        model: its ``batch`` is replaced.
        run: works that many rows with it.
        name: of the model and its dtype.
        kept: the file; None finds the size anew in each process.
        meter: of the model's device.
    """
    if meter is None:
        if not model.device.startswith("cuda"):
            return
        meter = CudaMeter(model.device)
        name = f"{name} {meter.name()}"

    def peak(rows: int) -> int:
        model.batch = BatchSize(rows)  # a model may hold memory for a whole batch, however few rows it is given
        return meter.peak(lambda: run(rows))

    def find() -> int:
        return fitting(peak, meter.free)

    model.batch = BatchSize(find() if kept is None else once(Path(kept), name, find))


def fitting(peak: Callable[[int], int], free: Callable[[], int]) -> int:
    """The largest power of two, at most ``MOST``, whose rows take at most ``SHARE`` of the free memory.

    Args:
        peak: bytes that a batch of that many rows takes; a straight line is put through two of them.
        free: bytes, asked for afterwards.
    """
    small, large = (peak(rows) for rows in PROBES)
    per_row = max(1.0, (large - small) / (PROBES[1] - PROBES[0]))
    fixed_part = max(0.0, small - PROBES[0] * per_row)
    rows = int((SHARE * free() - fixed_part) / per_row)
    return min(MOST, 1 << (max(1, rows).bit_length() - 1))


def once(path: Path, name: str, find: Callable[[], int]) -> int:
    """The number that a file keeps under a name; found, and put there, by the first process that asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON ({error}): remove it, and the sizes are found again") from None
        if name not in known:
            known[name] = find()
            write_atomically(path, json.dumps(known, indent=1, sort_keys=True))
        return int(known[name])


class CudaMeter:
    """Memory of a GPU as torch sees it."""

    def __init__(self, device: str) -> None:
        self.device = device

    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name(self.device)

    def free(self) -> int:
        import torch

        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved(self.device)
        there, total = torch.cuda.mem_get_info(self.device)
        # Younger than the oldest torch that the project takes.
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
        return min(there, int(share(self.device) * total) - held)

    def peak(self, run: Callable[[], object]) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        held = torch.cuda.memory_allocated(self.device)
        run()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - held
