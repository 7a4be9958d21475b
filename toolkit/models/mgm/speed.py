"""Switches between the original order of computation and exact rearrangements of it.

Each switch changes when and where something is computed, never what: results differ by rounding alone.
docs/results/training.md has the measured gain of each. ``REFERENCE`` computes as the original code does, except that
logits are computed only where there is a label; tests compare everything with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a forward pass is computed.

    Args:
        checkpointing: keep no activations inside decoder layers, compute them again in the backward pass.
        labelled_last_layer: the last decoder layer's queries, and everything after them, only where there is a label;
            takes effect with ``fused_decoder``. (Logits are computed only there with and without it.)
        rearranged_mining: no resized maps, keys or values; see ``toolkit.models.mgm.mining``.
        short_clip: CLIP's layers up to the selected one only, with torch's fused attention.
        nhwc_convnext: ConvNeXt with channels last, so that no block transposes its maps.
        depthwise_kernel: our CUDA kernel for ConvNeXt's depthwise convolutions (bfloat16 on a GPU).
        fused_decoder: decoder layers with one product for queries, keys and values and torch's causal attention.
        compiled: blocks of the towers, mining and decoder layers through ``torch.compile``.
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


def speed_for(choice: str | Mapping[str, bool], device: torch.device | str) -> Speed:
    """The switches that a plan asks for.

    Args:
        choice: ``auto`` (the fastest on the device), ``reference``, or single switches on top of ``auto``.
        device: where the model is.

    Raises:
        ValueError: an unknown choice or switch.
    """
    fastest = GPU if torch.device(device).type == "cuda" else CPU
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
    """``torch.compile`` of a function, once per process.

    Args:
        dynamic: False compiles for every shape anew; None makes sizes symbolic that were seen to change.
    """
    return torch.compile(function, dynamic=dynamic)
