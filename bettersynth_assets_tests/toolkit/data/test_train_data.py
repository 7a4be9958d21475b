"""LLaVA rows, their order and batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bettersynth_assets_tests.helpers.llava_rows import PROCESSOR, write_rows
from toolkit.data.collator import Collator
from toolkit.data.conversation import IGNORE_INDEX
from toolkit.data.exposures import Exposures
from toolkit.data.llava import DataError, Sample, read_llava
from toolkit.data.order import deal, exposure_order, grouped_order, loss_weights, planned_steps
from toolkit.data.rows import encode_rows
from toolkit.images.reading import read_image
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX


def test_planned_steps_round_down_as_the_kit_does() -> None:
    assert planned_steps(200_000, 256, None) == 781
    assert planned_steps(240_000, 128, None) == 1875
    assert (planned_steps(5, 32, None), planned_steps(5, 32, 7)) == (1, 7)


def test_the_order_consists_of_shuffled_passes_and_depends_only_on_the_seed() -> None:
    order = exposure_order(10, steps=5, global_batch=5, seed=3)
    assert len(order) == 25 and sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order == exposure_order(10, 5, 5, 3) != exposure_order(10, 5, 5, 4)


def test_grouped_order_separates_kinds_of_rows_and_loses_none() -> None:
    words = [i % 7 for i in range(60)]
    has_image = [i < 37 for i in range(60)]
    order = grouped_order(words, has_image, steps=15, global_batch=4, seed=1)
    assert sorted(order) == list(range(60))
    batches = [order[i : i + 4] for i in range(0, 60, 4)]
    assert all(len({has_image[i] for i in batch}) == 1 for batch in batches[:14])
    assert all([words[i] for i in b] == sorted((words[i] for i in b), reverse=True) for b in batches)


def _exposures(samples: list[Sample], order: list[int]) -> Exposures:
    size = len(order)
    rows = encode_rows(samples, PROCESSOR)
    return Exposures(rows, order, global_batch=size, per_device_batch=size, processes=1, group=None)


def test_dealing_permutes_each_step_by_length_and_balances_the_processes() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, 6 * 64)
    dealt = deal(lengths, global_batch=64, per_device_batch=4, processes=4)
    steps = dealt.reshape(6, 64)
    assert [sorted(step) for step in steps.tolist()] == [list(range(at, at + 64)) for at in range(0, 384, 64)]
    for step in steps:
        cells = lengths[step].reshape(4, 4, 4)  # micro-batch, process, row
        assert (np.sort(lengths[step])[::-1][:16] == np.sort(cells[0].ravel())[::-1]).all()
        loads = cells.sum(axis=(0, 2))
        assert loads.max() / loads.min() < 1.1
        padded = (cells.max(axis=2) * 4).sum()
        assert padded / lengths[step].sum() < 1.1 < (lengths[step[0]] * 64) / lengths[step].sum()
    assert (deal(np.ones(8, dtype=np.int64), 4, 4, 1) == np.arange(8)).all()


def test_loss_weights_are_the_means_of_the_kits_groups_or_of_all_tokens() -> None:
    labelled = np.array([1, 3, 2, 2, 5, 5, 1, 9])
    losses = np.random.default_rng(1).random(8) * labelled  # sum over the tokens of each row
    for step in (slice(0, 4), slice(4, 8)):
        means = [losses[at : at + 2].sum() / labelled[at : at + 2].sum() for at in (step.start, step.start + 2)]
        assert (loss_weights(labelled, 4, 2) * losses)[step].sum() == pytest.approx(np.mean(means))
        whole = losses[step].sum() / labelled[step].sum()
        assert (loss_weights(labelled, 4, None) * losses)[step].sum() == pytest.approx(whole)


def test_each_row_is_encoded_once_and_equally_on_one_core_or_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_llava(write_rows(tmp_path, pictures=5, text_only=3), tmp_path / "images")
    rows = encode_rows([*samples, *samples], PROCESSOR)
    assert len(rows) == 16 and len(rows.starts) - 1 == 8
    monkeypatch.setattr("toolkit.data.rows._CHUNK", 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    again = encode_rows([*samples, *samples], PROCESSOR)
    for number, sample in enumerate([*samples, *samples]):
        expected = PROCESSOR.encode_row(sample.turns, row_id=sample.id)
        for found in (rows, again):
            ids, labels = found.encoded(number)
            assert (ids.tolist(), labels.tolist()) == (expected.input_ids, expected.labels)
            assert (found.ids[number], found.image(number)) == (sample.id, sample.image)
            assert found.labelled[number] == sum(label != IGNORE_INDEX for label in expected.labels)
            assert found.lengths[number] == PROCESSOR.positions(expected.input_ids)


def test_a_batch_contains_ids_labels_and_images_in_order(tmp_path: Path) -> None:
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    exposures = _exposures(samples, [1, 3, 0])
    batch = Collator(processor=PROCESSOR, aspect="square")([exposures[i] for i in range(3)])
    assert batch["sample_ids"] == ["p1", "p0", "t0"]
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(1).tolist() == [1, 1, 0]
    assert batch["pixels"].shape == (2, 64, 64, 3) and batch["pixels"].dtype == torch.uint8
    expected = PROCESSOR.preprocess(
        [read_image(tmp_path / "images" / f"{n}.png", sample_id="") for n in (1, 0)], aspect="square"
    )
    assert_close(PROCESSOR.normalise(batch["pixels"]), expected, rtol=0, atol=0)
    assert ((batch["labels"] == IGNORE_INDEX) | (batch["labels"] == batch["input_ids"])).all()
    assert not batch["labels"][batch["attention_mask"] == 0].ne(IGNORE_INDEX).any()
    assert batch["loss_weights"].tolist() == pytest.approx([1 / int((batch["labels"] != IGNORE_INDEX).sum())] * 3)
    text = Collator(processor=PROCESSOR, aspect="square")([exposures[2]])
    assert text["pixels"].shape == (1, 64, 64, 3) and not text["pixels"].any()
    padded = Collator(processor=PROCESSOR, aspect="square", pad_multiple=64)([exposures[i] for i in range(3)])
    assert batch["layout"]["mask"].shape[1] % 64 != 0 == padded["layout"]["mask"].shape[1] % 64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": []}, "row 0: needs an 'id'"),
        ({"id": "a", "conversations": [{"from": "robot", "value": ""}]}, "row 0.*'a'.*robot"),
        ({"id": "a", "image": "x.png", "conversations": [{"from": "human", "value": "hi"}]}, "0 <image>.*x.png"),
        ({"id": "a", "image": "../x", "conversations": [{"from": "human", "value": "<image>"}]}, "inside"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "d.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=message):
        read_llava(tmp_path / "d.json", tmp_path)


def test_a_missing_broken_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        read_llava(tmp_path / "none.json", tmp_path)
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(DataError, match="at least one row"):
        read_llava(tmp_path / "d.json", tmp_path)
