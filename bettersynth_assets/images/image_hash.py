"""Perceptual hashes and near-duplicate detection. In: RGB images. Out: 64 bits per image; per set, the duplicate rows.

The hash (known as pHash) has 64 bits: the image as 32×32 grey levels, its 8×8 lowest DCT frequencies, and for each of
these whether it is above their median. Resizing, recompression and small changes of brightness flip few bits; a crop
flips many.

A row is a duplicate if its hash differs in at most ``max_distance`` bits from that of a row that is kept. Rows are
compared in a fixed order, and only with kept rows, so that in a chain (a near b, b near c, a far from c) c is not
dropped because of b when b itself has been dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 64
MAX_DISTANCE = 7  # bits; above this, hash blocks are so short that nearly all pairs of rows would be compared
_SIDE, _LOW = 32, 8


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """Return the first ``_LOW`` rows of the DCT-II matrix, shape (8, 32), unscaled: comparisons ignore the scale."""
    positions, frequencies = np.arange(_SIDE), np.arange(_LOW)
    return np.asarray(np.cos(np.pi * (2 * positions[None] + 1) * frequencies[:, None] / (2 * _SIDE)))


def image_hash(image: Image.Image) -> str:
    """Hash one image.

    Args:
        image: RGB, any size.

    Returns:
        16 hexadecimal digits.
    """
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _cosines() @ np.asarray(small, np.float64) @ _cosines().T
    # In an image of one colour, frequencies consist of rounding errors, which differ between machines.
    low = np.where(np.abs(low) < 1e-6, 0.0, low).ravel()
    # The first coefficient is the mean grey level; it would shift the median.
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def repeats(hashes: Sequence[str], order: Sequence[int], max_distance: int) -> dict[int, tuple[int, int]]:
    """Find the rows that are near-duplicates of a kept row.

    Two hashes that differ in d bits agree in at least one of d + 1 blocks, so only rows that share a block are
    compared.

    Args:
        hashes: from ``image_hash``, length n.
        order: positions of all n rows in the order of comparison; the first row of a group is kept.
        max_distance: bits, 0 to ``MAX_DISTANCE``.

    Returns:
        For each dropped row, by position: (position of the nearest kept row, the first in ``order`` if several are
        equally near; distance in bits).
    """
    assert 0 <= max_distance <= MAX_DISTANCE
    values = [int(text, 16) for text in hashes]
    edges = [BITS * block // (max_distance + 1) for block in range(max_distance + 2)]
    blocks = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
    kept_by_block: list[dict[int, list[int]]] = [defaultdict(list) for _ in blocks]
    rank = {position: index for index, position in enumerate(order)}
    duplicates: dict[int, tuple[int, int]] = {}
    for position in order:
        value = values[position]
        keys = [(value >> shift) & mask for shift, mask in blocks]
        near = [
            (distance, rank[kept], kept)
            for table, key in zip(kept_by_block, keys, strict=True)
            for kept in table.get(key, ())
            if (distance := (values[kept] ^ value).bit_count()) <= max_distance
        ]
        if near:
            distance, _, kept = min(near)
            duplicates[position] = (kept, distance)
        else:
            for table, key in zip(kept_by_block, keys, strict=True):
                table[key].append(position)
    return duplicates
