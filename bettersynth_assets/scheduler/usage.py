"""What a piece of work took of the machine. In: a block of code. Out: peak memory, and the GPU's name and utilisation.

Only what this process uses is seen, not its children. Libraries are never imported for it: a GPU is looked at once
torch uses one, and its utilisation is missing where ``nvidia-ml-py`` is.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

SECONDS_BETWEEN_SAMPLES = 0.2


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Measure the block.

    Yields:
        ``process`` (host and number) and, when the block ends, ``peak_rss_gib`` and, where torch used a GPU, ``gpu``
        (its name), ``gpu_peak_gib`` (allocated by torch) and ``gpu_utilization`` (mean, percent). Changes nothing that
        the block computes.
    """
    found: dict[str, Any] = {"process": f"{platform.node()}:{os.getpid()}"}
    samples: list[float] = []
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(samples, ended), daemon=True)
    _reset_peak_rss()
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    sampler.start()
    try:
        yield found
    finally:
        ended.set()
        sampler.join()
        found["peak_rss_gib"] = round(_peak_rss() / 2**30, 3)
        if cuda := _cuda():
            found["gpu"] = cuda.get_device_name()
            found["gpu_peak_gib"] = round(cuda.max_memory_allocated() / 2**30, 3)
            if samples:
                found["gpu_utilization"] = round(fmean(samples), 1)


def _cuda() -> Any:
    """``torch.cuda`` where this process uses a GPU by now, else None."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    # Another thread may be importing it now.
    return cuda if hasattr(cuda, "max_memory_allocated") and cuda.is_initialized() else None


def _sample(samples: list[float], ended: threading.Event) -> None:
    while not ended.wait(SECONDS_BETWEEN_SAMPLES):
        if cuda := _cuda():
            refusal = getattr(sys.modules.get("pynvml"), "NVMLError", RuntimeError)
            try:
                samples.append(float(cuda.utilization()))
            except (ImportError, RuntimeError, refusal):  # no nvidia-ml-py, or a driver that does not tell
                return


def _reset_peak_rss() -> None:
    with suppress(OSError):  # where it is not allowed, the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss() -> int:
    """Bytes; see ``proc(5)``."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
