"""Measures the resources that a block of code uses. In: a block. Out: peak memory, GPU name and GPU utilization.

Measures this process only, not its children. Imports no library: a GPU is measured once torch uses it, and its
utilization is omitted if ``nvidia-ml-py`` is not installed.
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
    """Measure the block; does not affect what the block computes.

    Yields:
        A dictionary with ``process`` (host name and process id). When the block ends, it also has ``peak_rss_gib`` and,
        if torch used a GPU, ``gpu`` (its name), ``gpu_peak_gib`` (allocated by torch) and ``gpu_utilization`` (mean, in
        percent).
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
    """Return ``torch.cuda`` if this process already uses a GPU, else None."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    # Another thread may still be importing it.
    return cuda if hasattr(cuda, "max_memory_allocated") and cuda.is_initialized() else None


def _sample(samples: list[float], ended: threading.Event) -> None:
    while not ended.wait(SECONDS_BETWEEN_SAMPLES):
        if cuda := _cuda():
            refusal = getattr(sys.modules.get("pynvml"), "NVMLError", RuntimeError)
            try:
                samples.append(float(cuda.utilization()))
            except (
                ImportError,
                RuntimeError,
                refusal,
            ):  # nvidia-ml-py is missing, or the driver reports no utilization
                return


def _reset_peak_rss() -> None:
    with suppress(OSError):  # not permitted: the peak then covers the lifetime of the process
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss() -> int:
    """Return the peak resident set size in bytes (see ``proc(5)``)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
