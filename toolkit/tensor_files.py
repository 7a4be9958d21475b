"""Atomic writing of weight files. In: tensors. Out: safetensors files with umask permissions.

safetensors creates files with mode 0600 regardless of the umask. It reports a full disk as ``SafetensorError``, and
torch as a ``RuntimeError`` without an error number. ``save_tensors`` and ``writing`` correct both.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from toolkit.file_errors import LASTING, environment_fault
from toolkit.files import replacing

_FULL_BELOW = 1 << 20
"""If a write fails with fewer free bytes than this, a full disk is assumed to be the cause."""


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically.

    Raises:
        EnvironmentFault: the disk is full or read-only; the message names ``path``.
    """
    with writing(path), replacing(path) as partial:
        save_file(dict(tensors), partial, metadata=metadata)
        apply_umask(partial)


def apply_umask(path: Path) -> None:
    """Set a file, or the safetensors files of a folder, to the permissions that the umask grants to new files."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    for file in files:
        like = file.with_name(f".{file.name}.mode.partial")
        like.touch()  # `os.umask` can only be read by changing it, for all threads
        file.chmod(like.stat().st_mode & 0o777)
        like.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert library errors caused by a full or read-only disk to an ``EnvironmentFault`` that names ``path``.

    Raises:
        EnvironmentFault: the disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        fault = environment_fault(error, path) if error.errno in LASTING else None
        if fault is None:
            raise
        raise fault from error
    except (SafetensorError, RuntimeError) as error:
        fault = environment_fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
        if fault is None or not (_is_full(path) or "os error 28" in str(error)):
            raise
        raise fault from error


def _is_full(path: Path) -> bool:
    folder = next(folder for folder in path.parents if folder.is_dir())
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < _FULL_BELOW
