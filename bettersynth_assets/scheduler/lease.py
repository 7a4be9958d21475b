"""Leases on GPUs. In: the devices that a profile requests. Out: exclusive locks, and a mask with only these devices.

Dagster's pools count steps, not devices, and Dagster does not set ``CUDA_VISIBLE_DEVICES``. A lease locks one file per
device. Device numbers index the mask that this process inherited. Child processes inherit the lock's descriptors, so
that the lease lasts as long as any process that may still use the GPU's memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.scheduler.devices import device_numbers
from toolkit.locks import acquire

MASK = "CUDA_VISIBLE_DEVICES"
_held: list[int] = []


def visible_devices(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return numbers or UUIDs of the GPUs that this process may use: the inherited mask, or all of the machine's."""
    mask = env.get(MASK)
    if mask is not None:
        return list(takewhile(lambda name: name not in ("", "-1"), (name.strip() for name in mask.split(","))))
    numbers = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(numbers, key=int)


def chosen_devices(gpu: Gpu, visible: list[str]) -> list[str]:
    """Return the devices that a profile requests, as entries for the mask; empty for the CPU.

    Raises:
        DeviceError: the profile requests a GPU number that does not exist.
    """
    return [visible[index] for index in device_numbers(gpu, len(visible))]


def held_locks() -> list[int]:
    """Return the descriptors of all locks that this process holds, for ``pass_fds`` of its children."""
    return list(_held)


@contextmanager
def lease(devices: list[str], log: Callable[[str], None], folder: Path | None = None) -> Iterator[None]:
    """Hold devices exclusively; other processes wait until the holder and its children have exited.

    Args:
        devices: from ``chosen_devices``; locked in sorted order to avoid deadlocks.
        log: called once for each busy device.
        folder: folder of the lock files; by default one per user in the system's temporary folder.
    """
    lock_folder = folder or Path(tempfile.gettempdir()) / f"bettersynth-gpu-{os.getuid()}"
    lock_folder.mkdir(mode=0o700, exist_ok=True)
    inherited = os.environ.get(MASK)
    with ExitStack() as stack:
        files = [
            stack.enter_context((lock_folder / f"{name.replace(os.sep, '_')}.lock").open("w"))
            for name in sorted(devices)
        ]
        for name, file in zip(sorted(devices), files, strict=True):
            acquire(file.fileno(), partial(log, f"GPU {name} is busy with another run: waiting for it"))
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
