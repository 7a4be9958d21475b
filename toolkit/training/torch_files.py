"""Safe loading of torch files, which are pickles: they may contain tensors and plain values, but run no code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the fix."""


def read_state(file: Path) -> Any:
    """Load a torch file that may contain only tensors and plain values.

    Raises:
        CheckpointError: the file contains anything else or is damaged.
    """
    try:
        with weights_only(file):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError) as error:
        message = " ".join(str(error).strip().splitlines()[:1])
        raise CheckpointError(f"checkpoint: {str(file)!r} is damaged ({message}); remove this checkpoint") from error


@contextmanager
def weights_only(path: Path) -> Iterator[None]:
    """Force every ``torch.load`` in the block to ``weights_only=True``, even if DeepSpeed requests otherwise."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint: {str(path)!r} contains more than tensors and plain values, so it is not loaded "
            f"({_refused(error)}); remove this checkpoint"
        ) from error
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def deepspeed_values() -> list[Any]:
    """Return the classes of the plain values in DeepSpeed's checkpoints, for ``safe_globals``."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _refused(error: pickle.UnpicklingError) -> str:
    """Return the sentence of torch's long error message that names the refused object."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
    return lines[-1] if lines else str(error).splitlines()[0]
