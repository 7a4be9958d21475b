"""Peak memory of this process, and the energy that its GPU has used.

Nothing is imported for it: a GPU is measured only in a process that uses torch, and its energy only if nvidia-ml-py is
installed and the driver has a counter.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GIB = 2**30


def reset_peak_memory() -> None:
    """Let the peak of this process's memory start at its present size."""
    with suppress(OSError):  # not permitted: the peak then covers the lifetime of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib() -> float:
    """Return the peak resident set size of this process in GiB (``VmHWM`` of ``proc(5)``)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / GIB


def gpu_energy_joules(device: torch.device) -> float | None:
    """Return the GPU's energy counter, in joules since its driver was loaded.

    The counter is the device's: work of other processes on it counts too.

    Returns:
        None for the CPU, without nvidia-ml-py, and on devices without a counter (before Volta, MIG slices).
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    try:
        pynvml.nvmlInit()
        # By UUID, because CUDA_VISIBLE_DEVICES renumbers torch's devices but not NVML's.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:
        return None
