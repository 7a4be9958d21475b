"""The cache of the towers' features: equal to the towers, filled once, and errors that name the sample."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch.testing import assert_close

from bettersynth_assets_tests.helpers.llava_rows import PROCESSOR, write_rows
from toolkit.data.collator import Collator
from toolkit.data.exposures import Exposures
from toolkit.data.llava import Sample, read_llava
from toolkit.data.rows import encode_rows
from toolkit.images.reading import ImageError
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.tiny import tiny_mgm
from toolkit.models.mgm.vision.feature_cache import FeatureCache, FeatureError, tower_hash


def _exposures(samples: list[Sample], order: list[int]) -> Exposures:
    size = len(order)
    rows = encode_rows(samples, PROCESSOR)
    return Exposures(rows, order, global_batch=size, per_device_batch=size, processes=1, group=None)


def _wanted(samples: list[Sample]) -> dict[Path | bytes, str]:
    return {s.image: s.id for s in samples if s.image is not None}


def test_cached_features_equal_those_of_the_towers_up_to_float16(tmp_path: Path) -> None:
    model = tiny_mgm()
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    exposures = _exposures(samples, [2, 3, 0])
    cache = FeatureCache(tmp_path / "cache", model, PROCESSOR, "pad")
    assert cache.fill(_wanted(samples), batch=2) == 3
    batch = [exposures[i] for i in range(3)]
    loaded = Collator(processor=PROCESSOR, aspect="pad", cache=cache)(batch)["features"]
    fresh = model.encode_images(*PROCESSOR.normalise(Collator(processor=PROCESSOR, aspect="pad")(batch)["pixels"]))
    for stored, expected in zip(loaded, (fresh.low, *fresh.maps), strict=True):
        assert_close(stored, expected, rtol=2e-3, atol=2e-3)
    assert cache.load([]).low.shape == (1, 4, 24)


def test_on_the_cpu_features_do_not_depend_on_what_else_was_missing(tmp_path: Path) -> None:
    model = tiny_mgm()
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    together, apart = (FeatureCache(tmp_path / name, model, PROCESSOR, "pad") for name in ("together", "apart"))
    wanted = _wanted(samples)
    assert together.fill(wanted) == len(wanted) > 1
    for image, id_ in wanted.items():
        assert apart.fill({image: id_}) == 1
    assert [together.path_of(image).read_bytes() for image in wanted] == [
        apart.path_of(image).read_bytes() for image in wanted
    ]


def test_the_cache_is_filled_once_and_again_after_an_image_or_tower_changes(tmp_path: Path) -> None:
    model = tiny_mgm()
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")

    def fill(of: MGMGemmaForCausalLM) -> int:
        return FeatureCache(tmp_path / "cache", of, PROCESSOR, "square").fill(_wanted(samples))

    assert (fill(model), fill(model)) == (3, 0)
    os.utime(tmp_path / "images" / "1.png", ns=(1, 1))
    assert fill(model) == 1
    assert fill(tiny_mgm(seed=5)) == 3
    assert tower_hash(model, PROCESSOR, "square") != tower_hash(model, PROCESSOR, "pad")
    with pytest.raises(FeatureError, match="aux_drop_path"):
        FeatureCache(tmp_path, tiny_mgm(aux_drop_path="training"), PROCESSOR, "pad")


def test_an_unreadable_image_stops_filling_the_cache_and_names_the_sample(tmp_path: Path) -> None:
    samples = read_llava(write_rows(tmp_path), tmp_path / "images")
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"'p1'.*1\.png"):
        FeatureCache(tmp_path / "cache", tiny_mgm(), PROCESSOR, "square").fill(_wanted(samples))
