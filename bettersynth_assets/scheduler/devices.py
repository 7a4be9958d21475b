"""Torch devices of a profile. In: its ``gpu`` section. Out: the devices that are there, checked before any work.

A device that is requested and missing is an error that names it and the fix; no other device is used instead.
"""

from __future__ import annotations

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.errors import DeviceError


def resolve_devices(gpu: Gpu) -> list[str]:
    """Name the torch devices that a profile's ``devices`` stands for.

    Returns:
        ``["cpu"]`` or ``["cuda:0", ...]``, never empty.

    Raises:
        DeviceError: a GPU is asked for that is not there.
    """
    if gpu.devices == "cpu":
        return ["cpu"]
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu.devices == "auto":
        return [f"cuda:{index}" for index in range(there)] or ["cpu"]
    if not gpu.devices:
        raise DeviceError("gpu.devices = []: name at least one GPU, e.g. [0], or set `devices: cpu`")
    absent = [index for index in gpu.devices if not 0 <= index < there]
    if absent:
        found = f"{there} GPU(s), numbered from 0" if there else "no GPU"
        raise DeviceError(
            f"gpu.devices = {gpu.devices} asks for GPU {', '.join(map(str, absent))}, but this machine has {found}: "
            "set `devices: cpu` or `devices: auto` in the profile's `gpu` section"
        )
    return [f"cuda:{index}" for index in gpu.devices]


def first_device(gpu: Gpu) -> str:
    """The device for a model that this process loads, with the profile's memory limit applied.

    Raises:
        DeviceError: as ``resolve_devices``; files are to be decoded on a GPU and there is none.
    """
    device = resolve_devices(gpu)[0]
    if gpu.decode == "nvjpeg" and device == "cpu":
        raise DeviceError(
            "gpu.decode = nvjpeg decodes on a GPU, and this step has none: set `decode: pillow` in the profile's `gpu` "
            "section, or give it a GPU"
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
