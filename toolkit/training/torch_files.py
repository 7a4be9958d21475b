"""Reads torch's files, which are pickles, so that they can hold tensors and plain values and run nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; names the file and the fix."""


def read_state(file: Path) -> Any:
    """Read a file of torch's that may hold tensors and plain values only.

    Raises:
        CheckpointError: it holds anything else, or is damaged.
    """
    try:
        with weights_only(file):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError) as error:
        words = str(error).strip().splitlines()[:1]
        raise CheckpointError(f"checkpoint: {str(file)!r} is damaged ({words}); remove this checkpoint") from error


@contextmanager
def weights_only(path: Path) -> Iterator[None]:
    """Make every ``torch.load`` inside refuse pickles of code, also where DeepSpeed asks it not to."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint: {str(path)!r} holds more than tensors and plain values, so it is not read "
            f"({_refused(error)}); remove this checkpoint"
        ) from error
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def deepspeed_values() -> list[Any]:
    """The classes of plain values that DeepSpeed keeps beside its tensors."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _refused(error: pickle.UnpicklingError) -> str:
    """The sentence of torch's long message that names what was refused."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
    return lines[-1] if lines else str(error).splitlines()[0]
