"""Switches between the original computation and equivalent optimized ones.

Each switch changes only how a result is computed, so results differ by rounding at most. docs/results/training.md lists
the measured gain of each. ``REFERENCE`` computes like the original code, except that logits are computed only at
labelled positions; tests compare all other settings with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from toolkit.models.kernels.depthwise import CHANNEL_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Switches of a forward pass.

    Args:
        checkpointing: recompute activations of decoder layers in the backward pass instead of storing them.
        labelled_last_layer: compute the last decoder layer's queries, and everything after them, only at labelled
            positions; requires ``fused_decoder``. (Logits are always computed at labelled positions only.)
        rearranged_mining: mine without resized maps, keys and values; see ``toolkit.models.mgm.vision.mining``.
        short_clip: run CLIP's layers only up to the selected one, with torch's fused attention.
        nhwc_convnext: run ConvNeXt with channels last, so that blocks need no transposition.
        depthwise_kernel: use this project's CUDA kernel for depthwise convolutions (bfloat16 on a GPU).
        fused_decoder: use one matmul for queries, keys and values, and torch's causal attention.
        compiled: use ``torch.compile`` for blocks of the towers, mining and decoder layers.
    """

    checkpointing: bool = False
    labelled_last_layer: bool = True
    rearranged_mining: bool = True
    short_clip: bool = True
    nhwc_convnext: bool = False
    depthwise_kernel: bool = False
    fused_decoder: bool = True
    compiled: bool = False


REFERENCE = Speed(
    checkpointing=True, labelled_last_layer=False, rearranged_mining=False, short_clip=False,
    fused_decoder=False,
)  # fmt: skip
CPU = Speed()
GPU = Speed(nhwc_convnext=True, depthwise_kernel=True, compiled=True)


def speed_for(choice: str | Mapping[str, bool], device: torch.device | str, channels: Sequence[int] = ()) -> Speed:
    """Return the switches for a plan's ``speed`` setting.

    Args:
        choice: ``auto`` (the fastest on the device), ``reference``, or single switches on top of ``auto``.
        device: device of the model.
        channels: of ConvNeXt's stages. Small models have numbers that the depthwise kernel does not support; ``auto``
            then leaves it off.

    Raises:
        ValueError: an unknown choice or switch.
    """
    fastest = GPU if torch.device(device).type == "cuda" else CPU
    if any(count % CHANNEL_MULTIPLE for count in channels):
        fastest = dataclasses.replace(fastest, depthwise_kernel=False)
    if choice == "auto":
        return fastest
    if choice == "reference":
        return REFERENCE
    known = [field.name for field in dataclasses.fields(Speed)]
    if isinstance(choice, str) or not set(choice) <= set(known):
        raise ValueError(f"speed {choice!r} is unknown; use 'auto', 'reference' or switches out of {', '.join(known)}")
    return dataclasses.replace(fastest, **dict(choice))


@cache
def compiled(function: Callable[..., Any], *, dynamic: bool | None = None) -> Callable[..., Any]:
    """Compile a function with ``torch.compile``, once per process.

    Args:
        function: the function.
        dynamic: as in ``torch.compile``: False recompiles for every shape, None makes changing sizes symbolic.
    """
    return torch.compile(function, dynamic=dynamic)
