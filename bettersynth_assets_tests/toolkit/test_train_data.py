"""LLaVA rows, their order, batches, and the feature cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

from toolkit.data.collator import Collator
from toolkit.data.feature_cache import FeatureCache, FeatureError, tower_hash
from toolkit.data.llava import DataError, ExposureDataset, Sample, read_llava
from toolkit.data.order import exposure_order, grouped_order, planned_steps
from toolkit.mgm.configuration_mgm import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from toolkit.mgm.images import ImageError
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.mgm.tiny import tiny_config, tiny_mgm, tiny_tokenizer

PROCESSOR = MGMProcessor.for_config(tiny_config(), tiny_tokenizer())


def write_rows(folder: Path, pictures: int = 3, text_only: int = 1) -> Path:
    """A small LLaVA set with pictures in ``folder/images``."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(pictures):
        values = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": f"number {number}"}]
        rows.append({"id": f"p{number}", "image": f"{number}.png", "conversations": turns})
    for number in range(text_only):
        turns = [{"from": "human", "value": "Say a word"}, {"from": "gpt", "value": "word" * (number + 1)}]
        rows.append({"id": f"t{number}", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(rows))
    return folder / "data.json"


def test_planned_steps_round_down_as_the_kit_does() -> None:
    assert planned_steps(200_000, 256, None) == 781
    assert planned_steps(240_000, 128, None) == 1875
    assert (planned_steps(5, 32, None), planned_steps(5, 32, 7)) == (1, 7)


def test_order_is_shuffled_passes_and_depends_on_the_seed_alone() -> None:
    order = exposure_order(10, steps=5, global_batch=5, seed=3)
    assert len(order) == 25 and sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order == exposure_order(10, 5, 5, 3) != exposure_order(10, 5, 5, 4)


def test_grouped_order_keeps_kinds_apart_and_loses_nothing() -> None:
    words = [i % 7 for i in range(60)]
    has_image = [i < 37 for i in range(60)]
    order = grouped_order(words, has_image, steps=15, global_batch=4, seed=1)
    assert sorted(order) == list(range(60))
    batches = [order[i : i + 4] for i in range(0, 60, 4)]
    assert all(len({has_image[i] for i in batch}) == 1 for batch in batches[:14])
    assert all([words[i] for i in b] == sorted((words[i] for i in b), reverse=True) for b in batches)


def test_batch_holds_ids_labels_and_the_pictures_in_order(tmp_path: Path) -> None:
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    dataset = ExposureDataset(samples, PROCESSOR)
    batch = Collator(processor=PROCESSOR, aspect="square")([dataset[i] for i in (1, 3, 0)])
    assert batch["sample_ids"] == ["p1", "t0", "p0"]
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(1).tolist() == [1, 0, 1]
    assert batch["images"].shape == (2, 3, 28, 28) and batch["images_aux"].shape == (2, 3, 64, 64)
    assert ((batch["labels"] == IGNORE_INDEX) | (batch["labels"] == batch["input_ids"])).all()
    assert not batch["labels"][batch["attention_mask"] == 0].ne(IGNORE_INDEX).any()
    text = Collator(processor=PROCESSOR, aspect="square")([dataset[3]])
    assert text["images"].shape == (1, 3, 28, 28) and not text["images_aux"].any()


def _wanted(samples: list[Sample]) -> dict[Path | bytes, str]:
    return {s.image: s.id for s in samples if s.image is not None}


def test_cached_features_equal_the_towers_up_to_float16(tmp_path: Path) -> None:
    model = tiny_mgm()
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    dataset = ExposureDataset(samples, PROCESSOR)
    cache = FeatureCache(tmp_path / "cache", model, PROCESSOR, "pad")
    assert cache.fill(_wanted(samples), batch=2) == 3
    batch = [dataset[i] for i in (2, 3, 0)]
    loaded = Collator(processor=PROCESSOR, aspect="pad", cache=cache)(batch)["features"]
    pixels = Collator(processor=PROCESSOR, aspect="pad")(batch)
    fresh = model.encode_images(pixels["images"], pixels["images_aux"])
    for stored, expected in zip(loaded, (fresh.low, *fresh.maps), strict=True):
        assert_close(stored, expected, rtol=2e-3, atol=2e-3)
    assert cache.load([]).low.shape == (1, 4, 24)


def test_cache_is_filled_once_and_follows_a_changed_picture_or_tower(tmp_path: Path) -> None:
    model = tiny_mgm()
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")

    def fill(of: MGMGemmaForCausalLM) -> int:
        return FeatureCache(tmp_path / "cache", of, PROCESSOR, "square").fill(_wanted(samples))

    assert (fill(model), fill(model)) == (3, 0)
    os.utime(tmp_path / "images" / "1.png", ns=(1, 1))
    assert fill(model) == 1
    assert fill(tiny_mgm(seed=5)) == 3
    assert tower_hash(model, PROCESSOR, "square") != tower_hash(model, PROCESSOR, "pad")
    with pytest.raises(FeatureError, match="aux_drop_path_in_training"):
        FeatureCache(tmp_path, tiny_mgm(aux_drop_path_in_training=True), PROCESSOR, "pad")


def test_unreadable_picture_stops_the_fill_and_names_the_sample(tmp_path: Path) -> None:
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"'p1'.*1\.png"):
        FeatureCache(tmp_path / "cache", tiny_mgm(), PROCESSOR, "square").fill(_wanted(samples))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversations": []}, "'id'"),
        ({"id": "a", "conversations": [{"from": "robot", "value": ""}]}, "row 0.*'a'.*robot"),
        ({"id": "a", "image": "x.png", "conversations": [{"from": "human", "value": "hi"}]}, "0 <image>.*x.png"),
        ({"id": "a", "image": "../x", "conversations": [{"from": "human", "value": "<image>"}]}, "inside"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "d.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=message):
        read_llava(tmp_path / "d.json", tmp_path)


def test_missing_broken_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        read_llava(tmp_path / "none.json", tmp_path)
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(DataError, match="at least one row"):
        read_llava(tmp_path / "d.json", tmp_path)
