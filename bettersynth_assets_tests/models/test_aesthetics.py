"""Our aesthetics predictors. The golden scores are those of simple-aesthetics-predictor 0.1.2 (transformers 4.57.6)
on the same weights and images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.rows import STATS, make_row
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets.operators.stock_models import load_aesthetics
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import seed_table, tiny_profile
from bettersynth_assets_tests.toolkit.models.mgm.golden.rule import weight

GOLDEN = {
    "aesthetics-predictor-v1": [-0.24528244, -0.48545027, -0.2682697, -0.40426156, -0.2941457, -0.42275923],
    "aesthetics-predictor-v2-linear": [-0.00722802, 0.01408455, -0.05675755, -0.05147149, -0.00221773, 0.02034115],
    "aesthetics-predictor-v2-relu": [-0.01239351, -0.00035337, -0.01823211, -0.02909997, 0.00065134, -0.00868825],
}
ARCHITECTURES = dict(
    zip(GOLDEN, ("AestheticsPredictorV1", "AestheticsPredictorV2Linear", "AestheticsPredictorV2ReLU"), strict=True)
)
HEADS = {
    "aesthetics-predictor-v1": {"predictor": (1, 16)},
    "aesthetics-predictor-v2-linear": {
        "layers.0": (1024, 16), "layers.2": (128, 1024), "layers.4": (64, 128), "layers.6": (16, 64),
        "layers.7": (1, 16),
    },
    "aesthetics-predictor-v2-relu": {
        "layers.0": (1024, 16), "layers.3": (128, 1024), "layers.6": (64, 128), "layers.9": (16, 64),
        "layers.11": (1, 16),
    },
}  # fmt: skip
"""Names and shapes of the heads' weights in the public files."""
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 16,
}  # fmt: skip


def make_public(folder, *, says_class=True):
    """Write a folder with names and configuration of the public checkpoints and the golden weights."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    folder.mkdir(parents=True)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES)).state_dict()
    shapes = {name: tuple(value.shape) for name, value in tower.items() if not name.endswith("position_ids")}
    for layer, shape in HEADS[folder.name].items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    weights = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", **SIZES}
    config |= {"architectures": [ARCHITECTURES[folder.name]]} if says_class else {}
    (folder / "config.json").write_text(json.dumps(config))
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture
def images():
    rng = np.random.default_rng(7)
    sizes = [(64, 48), (47, 91), (301, 200), (33, 33), (64, 65), (40, 120)]
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


@pytest.mark.parametrize("says_class", [True, False])
@pytest.mark.parametrize("name", list(GOLDEN))
def test_scores_of_each_class_equal_those_of_the_replaced_package(name, says_class, images, tmp_path):
    registry()
    model, processor = load_aesthetics(str(make_public(tmp_path / name, says_class=says_class)))
    assert type(model).__name__ == ARCHITECTURES[name]
    with torch.no_grad():
        scores = model(**processor(images=images, return_tensors="pt")).logits.flatten()
    np.testing.assert_allclose(scores.numpy(), GOLDEN[name], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(GOLDEN))
def test_the_operator_uses_our_classes_row_by_row_and_in_batches_and_scales_scores_to_one(
    name, images, tmp_path, tiny_models
):
    folder = make_public(tmp_path / name)
    (built,) = build_operators(
        [{"image_aesthetics_filter": {"hf_scorer_model": str(folder)}}], tiny_profile(tiny_models)
    )
    rows = [
        make_row({"clip_score": 0.3, **row}, tmp_path, with_score=True) for row in seed_table(tmp_path, 6).to_pylist()
    ]
    for row, image in zip(rows, images, strict=True):
        image.save(row.sample["images"][0])
    assert built.measure(rows, []) == {}
    for row, expected in zip(rows, GOLDEN[name], strict=True):
        (ours,) = row.sample[STATS]["image_aesthetics_scores"]
        (theirs,) = built.operator.compute_stats_single({**row.sample, STATS: {}})[STATS]["image_aesthetics_scores"]
        assert (ours, theirs) == pytest.approx((expected / 10, expected / 10), abs=1e-6)


def test_a_head_of_another_class_is_refused(tmp_path):
    registry()
    folder = make_public(tmp_path / "aesthetics-predictor-v1")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["AestheticsPredictorV2ReLU"]}))
    with pytest.raises(ConfigError, match=r"10 weights of AestheticsPredictorV2ReLU are missing"):
        load_aesthetics(str(folder))
