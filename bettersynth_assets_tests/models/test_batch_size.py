"""Batch sizes derived from free memory, with a simulated GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.models.batch_size import (
    MAX_BATCH,
    PROBES,
    fit_batch,
    initial_batch,
    largest_fitting,
    stored_number,
)
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.captioners.captioner import load_captioner
from bettersynth_assets.models.scorers.clip_score import load_scorer

GIB = 2**30


class Model:
    """Uses a fixed amount of memory and a number of bytes per row, on a GPU with limited free memory."""

    def __init__(self, free: int, per_row: int, fixed_part: int = 0, device: str = "cuda:0") -> None:
        self.device, self.batch = device, BatchSize(64)
        self.memory, self.per_row, self.fixed_part = free, per_row, fixed_part
        self.ran: list[int] = []

    def run(self, rows: int) -> None:
        assert self.batch.size == rows
        self.ran.append(rows)

    def free(self) -> int:
        return self.memory

    def peak(self, run: Callable[[], object]) -> int:
        run()
        return self.fixed_part + self.per_row * self.batch.size

    def takes(self, rows: int) -> int:
        return self.fixed_part + self.per_row * rows


@pytest.mark.parametrize("per_row", [3 * 2**20, 50 * 2**20, 700 * 2**20])
def test_the_batch_size_is_the_largest_power_of_two_within_four_fifths_of_free_memory(tmp_path, per_row):
    model = Model(80 * GIB, per_row, fixed_part=GIB)
    fit_batch(model, model.run, name="m", sizes_file=None, meter=model)
    size = model.batch.size
    assert size & (size - 1) == 0
    assert model.takes(size) <= 0.8 * 80 * GIB
    assert size == MAX_BATCH or model.takes(2 * size) > 0.8 * 80 * GIB
    assert model.batch.requested == size


def test_the_batch_size_is_capped_and_at_least_one():
    assert largest_fitting(lambda rows: rows, lambda: 10**12) == MAX_BATCH
    assert largest_fitting(lambda rows: 1000, lambda: 10**12) == MAX_BATCH
    assert largest_fitting(lambda rows: GIB * rows, lambda: GIB // 2) == 1


def test_the_batch_size_is_measured_once_and_kept(tmp_path):
    kept = tmp_path / "data" / "batch_sizes.json"
    first, second, other = Model(80 * GIB, GIB), Model(8 * GIB, GIB), Model(8 * GIB, GIB)
    fit_batch(first, first.run, name="m float32", sizes_file=str(kept), meter=first)
    fit_batch(second, second.run, name="m float32", sizes_file=str(kept), meter=second)
    fit_batch(other, other.run, name="m bfloat16", sizes_file=str(kept), meter=other)
    assert (first.batch.size, second.batch.size, other.batch.size) == (64, 64, 4)
    assert (first.ran, second.ran) == (list(PROBES), [])
    assert json.loads(kept.read_text()) == {"m float32": 64, "m bfloat16": 4}


def test_concurrent_workers_get_the_same_batch_size(tmp_path):
    answers = iter(range(1, 100))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: stored_number(tmp_path / "sizes.json", "m", lambda: next(answers)), range(8)))
    assert found == {1}


def test_models_on_the_cpu_get_their_default_batch_size(tiny_models, tmp_path):
    gpu = Gpu(devices="cpu", clip_batch="auto", caption_batch="auto", batch_sizes=str(tmp_path / "sizes.json"))
    assert load_scorer(resolve_model(str(tiny_models.clip), role="clip"), gpu).batch.size == 64
    assert load_captioner(resolve_model(str(tiny_models.captioner), role="captioner"), gpu).batch.size == 32
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_measured_on_the_cpu_or_with_a_fixed_batch_size(tmp_path):
    model = Model(80 * GIB, GIB, device="cpu")
    fit_batch(model, model.run, name="m", sizes_file=str(tmp_path / "sizes.json"))
    assert (model.batch.size, model.ran) == (64, [])
    assert (initial_batch("auto", 32), initial_batch(7, 32)) == (32, 7)
    assert list(tmp_path.iterdir()) == []
