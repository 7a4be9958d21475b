"""Which sample each step sees, where, and with what weight. Pure functions, so that a manifest can name every sample.

::

    samples, steps, global batch, seed ─► order (steps * global batch indices), shuffled passes or grouped by kind
    order, lengths, processes          ─► the same order, dealt by length within each step
    order, labelled tokens             ─► loss weight of each exposure

The order decides what a step learns from; dealing only says which process computes a row in which micro-batch. Rows of
like length come together, so almost nothing is padded and shapes are few. The loss weights keep the loss of the order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def planned_steps(samples: int, global_batch: int, max_steps: int | None) -> int:
    """Optimizer steps: ``max_steps``, else one epoch, rounded down as in the kit (200,000 at 256: 781), at least 1."""
    return max(1, samples // global_batch) if max_steps is None else max_steps


def exposure_order(samples: int, steps: int, global_batch: int, seed: int) -> list[int]:
    """Shuffled passes over the samples, one after the other, cut to ``steps * global_batch``."""
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * global_batch:
        order += generator.sample(range(samples), samples)
    return order[: steps * global_batch]


def grouped_order(
    words: Sequence[int], has_image: Sequence[bool], steps: int, global_batch: int, seed: int
) -> list[int]:
    """Shuffled passes whose batches hold either images or text only, each sorted by length, as the kit fine-tunes.

    What is left of both kinds at the end of a pass forms mixed batches, which come last; a batch that would not be full
    is filled by the next pass.

    Args:
        words: length of each sample.
        has_image: whether it has an image.
    """
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * global_batch:
        order += _grouped_pass(words, has_image, global_batch, generator)
    return order[: steps * global_batch]


def _grouped_pass(
    words: Sequence[int], has_image: Sequence[bool], global_batch: int, generator: random.Random
) -> list[int]:
    full: list[list[int]] = []
    remaining: list[int] = []
    for kind in (True, False):
        members = [i for i, image in enumerate(has_image) if bool(image) is kind]
        generator.shuffle(members)
        full_size = len(members) - len(members) % global_batch
        full += [members[i : i + global_batch] for i in range(0, full_size, global_batch)]
        remaining += members[full_size:]
    generator.shuffle(full)
    generator.shuffle(remaining)
    full += [remaining[i : i + global_batch] for i in range(0, len(remaining), global_batch)]
    return [i for batch in full for i in sorted(batch, key=lambda i: -words[i])]


def deal(lengths: NDArray[np.int64], global_batch: int, per_device_batch: int, processes: int) -> NDArray[np.int64]:
    """Deal the exposures of each step to micro-batches and processes by length, the longest first.

    Within a micro-batch the processes take turns at having the longest rows, so that their loads stay near equal.

    Args:
        lengths: positions of each exposure, in order; whole steps.
        global_batch: exposures of a step.
        per_device_batch: exposures of one process in one micro-batch.
        processes: number of training processes.

    Returns:
        Position in the order of each exposure, as a loader hands them out: step by step, micro-batch by micro-batch,
        process by process. A permutation within each step; equal lengths keep their order.
    """
    steps = len(lengths) // global_batch
    by_length = np.argsort(-lengths.reshape(steps, global_batch), axis=1, kind="stable")
    micro_batches = global_batch // (per_device_batch * processes)
    dealt = by_length.reshape(steps, micro_batches, processes, per_device_batch).copy()
    dealt[:, 1::2] = dealt[:, 1::2, ::-1]
    return (dealt.reshape(steps, global_batch) + np.arange(steps)[:, None] * global_batch).reshape(-1)


def loss_weights(labelled: NDArray[np.int64], global_batch: int, group: int | None) -> NDArray[np.float64]:
    """Weight of each labelled token of an exposure, so that a step's loss is the sum of weighted token losses.

    Args:
        labelled: tokens with a label of each exposure, at least 1, in order; whole steps.
        global_batch: exposures of a step.
        group: exposures in a row whose mean over tokens counts once, as the kit's micro-batch of 8 does; None takes the
            mean over all tokens of the step.
    """
    size = group or global_batch
    tokens = labelled.reshape(-1, size).sum(axis=1)
    return np.repeat(1.0 / (tokens * (global_batch // size)), size)
