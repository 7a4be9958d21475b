"""Perceptual hashes of images and who repeats whom. In: RGB images. Out: 64 bits each; for a set, the repeated rows.

hash   64 bits: the image in 32×32 grey levels, its 8×8 lowest cosine frequencies, each above their median or not (the
       scheme known as pHash). Resizing, recompression and small changes of brightness move few bits; a crop moves many.

A row repeats another where their hashes differ in at most ``max_distance`` bits and the other stays. Rows are asked in
one order, so that chains (a like b, b like c, a unlike c) never take a row whose like has gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 64
MAX_DISTANCE = 7  # bits; with more, the blocks by which rows find each other get so short that all meet all
_SIDE, _LOW = 32, 8


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The ``_LOW`` lowest rows of the DCT-II matrix, shape (8, 32), without its scale, which no comparison sees."""
    places, frequencies = np.arange(_SIDE), np.arange(_LOW)
    return np.asarray(np.cos(np.pi * (2 * places[None] + 1) * frequencies[:, None] / (2 * _SIDE)))


def image_hash(image: Any) -> str:
    """Hash one image.

    Args:
        image: RGB, any size.

    Returns:
        16 hexadecimal digits.
    """
    from PIL import Image

    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _cosines() @ np.asarray(small, np.float64) @ _cosines().T
    # Frequencies that are nothing but rounding (a plain image) count as zero, on every machine.
    low = np.where(np.abs(low) < 1e-6, 0.0, low).ravel()
    # The mean grey level would pull the middle; it is left out of it.
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def repeats(hashes: Sequence[str], order: Sequence[int], max_distance: int) -> dict[int, tuple[int, int]]:
    """Find the rows that repeat a row that stays.

    Two hashes that differ in d bits agree in at least one of d + 1 blocks, so only rows that share a block are
    compared.

    Args:
        hashes: as ``image_hash`` gives them, length n.
        order: positions of the rows, all n, in the order in which they are asked; the first of a group stays.
        max_distance: bits, 0 to ``MAX_DISTANCE``.

    Returns:
        By the position of a row that goes: (position of the nearest row that stays, the first such in ``order``; bits).
    """
    assert 0 <= max_distance <= MAX_DISTANCE
    values = [int(text, 16) for text in hashes]
    edges = [BITS * block // (max_distance + 1) for block in range(max_distance + 2)]
    blocks = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
    staying: list[dict[int, list[int]]] = [defaultdict(list) for _ in blocks]
    rank = {position: place for place, position in enumerate(order)}
    found: dict[int, tuple[int, int]] = {}
    for position in order:
        value = values[position]
        keys = [(value >> shift) & mask for shift, mask in blocks]
        near = [
            (distance, rank[other], other)
            for table, key in zip(staying, keys, strict=True)
            for other in table.get(key, ())
            if (distance := (values[other] ^ value).bit_count()) <= max_distance
        ]
        if near:
            distance, _, other = min(near)
            found[position] = (other, distance)
        else:
            for table, key in zip(staying, keys, strict=True):
                table[key].append(position)
    return found
