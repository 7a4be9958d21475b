"""Leases on GPUs. In: the devices that a profile asks for. Out: exclusive locks, and a mask that shows only those.

Dagster's pools count steps, not devices, and nothing in Dagster sets ``CUDA_VISIBLE_DEVICES``. A lease is a lock on one
file per device. Devices are counted within the mask that this process inherited. The lock's descriptors go to child
processes too, so that it lasts as long as anything that may still hold the GPU's memory.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.errors import DeviceError

MASK = "CUDA_VISIBLE_DEVICES"
_held: list[int] = []


def visible_devices(env: Mapping[str, str] = os.environ) -> list[str]:
    """Numbers or UUIDs of the GPUs that this process may use: those of the inherited mask, else the machine's."""
    mask = env.get(MASK)
    if mask is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), (name.strip() for name in mask.split(","))))
    numbers = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(numbers, key=int)


def chosen_devices(gpu: Gpu, visible: list[str]) -> list[str]:
    """The devices that a profile asks for, as the mask must name them; none means the CPU.

    Raises:
        DeviceError: a GPU that is asked for by number and is not there.
    """
    if gpu.devices == "cpu":
        return []
    if gpu.devices == "auto":
        return visible
    missing = [index for index in gpu.devices if not 0 <= index < len(visible)]
    if missing:
        raise DeviceError(
            f"gpu.devices = {gpu.devices}: GPU {missing[0]} was asked for and this process sees {len(visible)} GPUs; "
            "set `devices: auto` (a GPU where there is one) or `devices: cpu` in the profile"
        )
    return [visible[index] for index in gpu.devices]


def held_locks() -> list[int]:
    """File descriptors of the locks that this process holds now, for ``pass_fds`` of its children."""
    return list(_held)


@contextmanager
def lease(devices: list[str], log: Callable[[str], None], folder: Path | None = None) -> Iterator[None]:
    """Hold devices; another process that wants one waits until the holder and its children have exited.

    Args:
        devices: as from ``chosen_devices``; locked in sorted order, so that two holders cannot wait for each other.
        log: called once for each device that is busy.
        folder: of the lock files; by default a folder of this user in the system's temporary folder.
    """
    place = folder or Path(tempfile.gettempdir()) / f"bettersynth-gpu-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    inherited = os.environ.get(MASK)
    with ExitStack() as stack:
        files = [
            stack.enter_context((place / f"{name.replace(os.sep, '_')}.lock").open("w")) for name in sorted(devices)
        ]
        for name, file in zip(sorted(devices), files, strict=True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"GPU {name} is busy with another run: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
        os.environ[MASK] = ",".join(devices)
        _held.extend(file.fileno() for file in files)
        try:
            yield
        finally:
            del _held[len(_held) - len(files) :]
            if inherited is None:
                del os.environ[MASK]
            else:
                os.environ[MASK] = inherited
