"""Resolves a profile's devices. In: its ``gpu`` section. Out: torch device names, checked before any work starts.

A missing device is an error that names it and the fix; there is no fallback to another device.
"""

from __future__ import annotations

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.errors import DeviceError


def device_numbers(gpu: Gpu, available: int) -> list[int]:
    """Return the numbers of the GPUs that a profile's ``devices`` selects; empty for the CPU.

    Args:
        gpu: the profile's section.
        available: number of GPUs that this process may use.

    Raises:
        DeviceError: a requested GPU does not exist.
    """
    if gpu.devices == "cpu":
        return []
    if gpu.devices == "auto":
        return list(range(available))
    if not gpu.devices:
        raise DeviceError("gpu.devices = []: name at least one GPU, e.g. [0], or set `devices: cpu`")
    absent = [index for index in gpu.devices if not 0 <= index < available]
    if absent:
        visible = f"{available} GPU(s), numbered from 0" if available else "no GPU"
        raise DeviceError(
            f"gpu.devices = {gpu.devices} requests GPU {', '.join(map(str, absent))}, but this process sees {visible}: "
            "set `devices: cpu` or `devices: auto` in the profile's `gpu` section"
        )
    return gpu.devices


def resolve_devices(gpu: Gpu) -> list[str]:
    """Return the torch devices that a profile's ``devices`` selects.

    Returns:
        ``["cpu"]`` or ``["cuda:0", ...]``, never empty.

    Raises:
        DeviceError: a requested GPU does not exist.
    """
    if gpu.devices == "cpu":
        return ["cpu"]
    import torch

    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{index}" for index in device_numbers(gpu, available)] or ["cpu"]


def first_device(gpu: Gpu) -> str:
    """Return the device for this process's models, with the profile's memory limit applied.

    Raises:
        DeviceError: see ``resolve_devices``; also if `decode: nvjpeg` is set without a GPU.
    """
    device = resolve_devices(gpu)[0]
    if gpu.decode == "nvjpeg" and device == "cpu":
        raise DeviceError(
            "gpu.decode = nvjpeg decodes on a GPU, and this step has none: set `decode: pillow` in the profile's `gpu` "
            "section, or run it on a machine with a GPU"
        )
    limit_memory(device, gpu.memory_limit_gib)
    return device


def limit_memory(device: str, limit_gib: float | None) -> None:
    """Limit this process's share of a GPU's memory; no-op on the CPU or without a limit."""
    if limit_gib is None or not device.startswith("cuda"):
        return
    import torch

    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib / total), device)
