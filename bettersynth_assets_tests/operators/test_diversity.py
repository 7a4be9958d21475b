from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from bettersynth_assets.images.image_hash import image_hash, repeats
from bettersynth_assets.operators.diversity import clusters_of, quotas, ranks_in_clusters


@pytest.mark.parametrize(
    ("sizes", "wanted", "given"),
    [
        ([5, 5, 5], 9, [3, 3, 3]),
        ([1, 10, 4], 9, [1, 4, 4]),
        ([1, 10, 4], 8, [1, 4, 3]),
        ([0, 2, 2], 3, [0, 1, 2]),
        ([2, 3], 99, [2, 3]),
        ([4, 4], 1, [0, 1]),
        ([], 3, []),
    ],
)
def test_quotas_are_as_equal_as_the_sizes_allow(sizes, wanted, given):
    assert quotas(sizes, wanted) == given


def test_separate_groups_become_separate_clusters_regardless_of_vector_length():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 30)
    points = (np.eye(8, dtype=np.float32)[truth] + 0.05 * rng.standard_normal((120, 8))).astype(np.float32)
    labels, distances = clusters_of(points * rng.uniform(0.5, 9, (120, 1)).astype(np.float32), 4, random_seed=3)
    assert all(len({*labels[truth == group].tolist()}) == 1 for group in range(4)) and len({*labels.tolist()}) == 4
    assert distances.max() < 0.5
    assert np.array_equal(labels, clusters_of(points, 4, random_seed=3)[0])


def test_more_clusters_than_rows_and_equal_rows_are_accepted():
    labels, _ = clusters_of(np.ones((3, 4), np.float32), 9, random_seed=0)
    assert labels.shape == (3,)


def test_ranks_within_clusters_follow_the_weights_and_ties_keep_the_row_order():
    labels = np.array([0, 1, 0, 1, 0])
    assert ranks_in_clusters(labels, [0.1, 0.5, 0.9, 0.5, 0.1]).tolist() == [1, 0, 0, 1, 2]


def test_repeats_finds_the_same_rows_as_comparing_all_pairs():
    rng = np.random.default_rng(0)
    base = [int(value) for value in rng.integers(0, 2**63, 40)]
    values = base + [value ^ sum(1 << int(bit) for bit in rng.choice(64, 1 + at % 9, replace=False))
                     for at, value in enumerate(base)]  # fmt: skip
    for limit in (0, 3, 7):
        found = repeats([f"{value:016x}" for value in values], range(len(values)), limit)
        near = {
            second for first, second in itertools.combinations(range(len(values)), 2)
            if (values[first] ^ values[second]).bit_count() <= limit
        }  # fmt: skip
        assert set(found) == near
        assert all((values[at] ^ values[other]).bit_count() == bits for at, (other, bits) in found.items())


def test_a_row_is_not_rejected_as_the_copy_of_a_rejected_row():
    a, b, c = "0000000000000000", "000000000000000f", "00000000000000ff"  # 4 bits apart each, 8 from end to end
    assert repeats([a, b, c], [0, 1, 2], 4) == {1: (0, 4)}
    assert repeats([a, b, c], [1, 0, 2], 4) == {0: (1, 4), 2: (1, 4)}


def test_a_single_colour_image_has_the_same_hash_at_every_size():
    assert len({image_hash(Image.new("RGB", (side, side), "gray")) for side in (8, 100, 333)}) == 1
