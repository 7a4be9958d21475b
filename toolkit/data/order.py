"""Which sample each step sees. Pure functions of the seed, so that a manifest can name the samples of every step.

In: number of samples, steps, global batch, seed. Out: one list of ``steps * global_batch`` indices.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


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
    """Shuffled passes whose batches hold either pictures or text only, each sorted by length (stage 2 of the kit).

    What is left of both kinds at the end of a pass forms mixed batches, which come last; a batch that would not be full
    is filled by the next pass.

    Args:
        words: length of each sample.
        has_image: whether it has a picture.
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
    rest: list[int] = []
    for kind in (True, False):
        members = [i for i, image in enumerate(has_image) if bool(image) is kind]
        generator.shuffle(members)
        whole = len(members) - len(members) % global_batch
        full += [members[i : i + global_batch] for i in range(0, whole, global_batch)]
        rest += members[whole:]
    generator.shuffle(full)
    generator.shuffle(rest)
    full += [rest[i : i + global_batch] for i in range(0, len(rest), global_batch)]
    return [i for batch in full for i in sorted(batch, key=lambda i: -words[i])]
