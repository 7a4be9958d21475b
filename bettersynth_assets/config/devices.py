"""Devices and models of a profile, checked before any work. In: its ``gpu`` and ``models``. Out: what is there.

A device or model that is asked for and is not there is an error that names it and the fix, never a silent other choice.
``model_fingerprint`` goes into the keys of the stages that use the model, so that changed weights make them again.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.profile import resolve
from bettersynth_assets.errors import ConfigError, DeviceError
from toolkit.files import digest_of, sha256_once

HUB_PREFIX = "hf-hub:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HASHED_BYTES = 64 * 2**20


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
    """The device of a model that this process loads, with its memory bounded as the profile says.

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
    """Bound what this process may take of a GPU's memory; nothing to do on the CPU or without a limit."""
    if limit_gib is None or not device.startswith("cuda"):
        return
    import torch

    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gib / total), device)


def model_path(path_or_id: str, *, role: str) -> str:
    """Check a model's name as the profile gives it.

    Args:
        path_or_id: a folder, absolute or relative to the project root, or a hub id ``org/name`` or ``hf-hub:org/name``.
        role: the key of the profile's ``models``, for the error.

    Returns:
        The absolute folder, or the hub id unchanged.

    Raises:
        ConfigError: it looks like a local path and nothing is there.
    """
    local = resolve(str(Path(path_or_id).expanduser()))
    if Path(local).is_dir():
        return str(Path(local).absolute())
    name = path_or_id.removeprefix(HUB_PREFIX)
    # `weights/clip` has the form of a hub id too; a folder that exists by its first part's name tells them apart.
    is_local = path_or_id.startswith((".", "/", "~")) or Path(resolve(name.split("/")[0])).is_dir()
    if _HUB_ID.fullmatch(name) and (path_or_id.startswith(HUB_PREFIX) or not is_local):
        return path_or_id
    raise ConfigError(
        f"models.{role} = {path_or_id!r}: no such folder ({Path(local).absolute()}): "
        "fetch the model to there, or name a folder that holds it or a hub id of the form org/name"
    )


def model_fingerprint(path_or_id: str, *, role: str) -> str:
    """A hash that changes when the model does.

    Args:
        path_or_id: what ``model_path`` takes.
        role: likewise.

    Returns:
        For a folder, sha256 over its files' names, sizes and contents (files of 64 MiB and more count by their time of
        change instead, because hashing them for each shard would take longer than the shard); for a hub id, the id.
    """
    name = model_path(path_or_id, role=role)
    folder = Path(name)
    if not folder.is_dir():
        return name
    return files_fingerprint(folder)


def files_fingerprint(*paths: Path) -> str:
    """A hash of files and of folders' files by their relative names; see ``model_fingerprint``."""
    found = [(path, root) for root in paths for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return digest_of(
        [
            (path.relative_to(root).as_posix() if path != root else path.name, _file_mark(path))
            for path, root in found
            if path.is_file() and not path.name.startswith(".")
        ]
    )


def _file_mark(path: Path) -> str:
    stat = path.stat()
    if stat.st_size >= _HASHED_BYTES:
        return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    return sha256_once(path, stat)
