"""Saving and restoring of random generator states, as values that ``torch.load(weights_only=True)`` accepts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch, and of the current GPU if CUDA is initialized."""
    kind, keys, *rest = np.random.get_state()
    numbers = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state = {"python": random.getstate(), "numpy": (kind, numbers, *rest), "torch": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the generators from a :func:`random_state`."""
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
