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
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from toolkit.resource_usage import GIB, peak_memory_gib, reset_peak_memory

SECONDS_BETWEEN_SAMPLES = 0.2


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Measure the block; does not affect what the block computes.

    Yields:
        A dictionary with ``process`` (host name and process id). When the block ends, it also has ``peak_rss_gib`` and,
        if torch used a GPU, ``gpu`` (its name), ``gpu_peak_gib`` (allocated by torch) and ``gpu_utilization`` (mean, in
        percent).
    """
    usage: dict[str, Any] = {"process": f"{platform.node()}:{os.getpid()}"}
    samples: list[float] = []
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(samples, stop), daemon=True)
    reset_peak_memory()
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    sampler.start()
    try:
        yield usage
    finally:
        stop.set()
        sampler.join()
        usage["peak_rss_gib"] = round(peak_memory_gib(), 3)
        if cuda := _cuda():
            usage["gpu"] = cuda.get_device_name()
            usage["gpu_peak_gib"] = round(cuda.max_memory_allocated() / GIB, 3)
            if samples:
                usage["gpu_utilization"] = round(fmean(samples), 1)


def _cuda() -> Any:
    """Return ``torch.cuda`` if this process already uses a GPU, else None."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    # Another thread may still be importing it.
    return cuda if hasattr(cuda, "max_memory_allocated") and cuda.is_initialized() else None


def _sample(samples: list[float], stop: threading.Event) -> None:
    while not stop.wait(SECONDS_BETWEEN_SAMPLES):
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
