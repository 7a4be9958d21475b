"""Checkpoints of transformers: both spellings of CLIP's names, missing weights, pixels by Pillow."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.captioners.llava import LlavaCaptioner
from bettersynth_assets.models.checkpoints import load_model, load_processor
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets_tests.helpers.public_repositories import make_public_clip, make_public_open_clip
from tiny_models.synthesis import make_llava

WEIGHTS = "model.safetensors"


class Code:
    """Creates a folder when unpickled by a reader that runs code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def images():
    rng = np.random.default_rng(3)
    sizes = [(64, 48), (47, 91), (301, 200), (33, 33), (64, 65), (700, 31)]
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


def renamed(folder, to, change):
    shutil.copytree(folder, to)
    weights = {change(name): value for name, value in load_file(folder / WEIGHTS).items()}
    save_file(weights, to / WEIGHTS, metadata={"format": "pt"})
    return to


def test_a_llava_checkpoint_of_transformers_4_and_one_of_5_write_the_same_captions(tmp_path, images):
    new = make_llava(tmp_path / "new")
    assert any(name.startswith("vision_tower.embeddings.") for name in load_file(new / WEIGHTS))
    old = renamed(new, tmp_path / "old", lambda name: name.replace("vision_tower.", "vision_tower.vision_model."))
    captions = [LlavaCaptioner(str(folder)).captions(images, max_new_tokens=8) for folder in (new, old)]
    assert captions[0] == captions[1] and len(set(captions[0])) > 2


def test_a_clip_vision_tower_loads_all_its_weights_with_and_without_the_prefix_of_transformers_4(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8))
    model.save_pretrained(tmp_path / "saved")
    bare = lambda name: name.removeprefix("vision_model.")  # noqa: E731
    spellings = {"without": bare, "with": lambda name: f"vision_model.{bare(name)}"}
    for spelling, change in spellings.items():
        folder = renamed(tmp_path / "saved", tmp_path / spelling, change)
        found = load_model(CLIPVisionModel, str(folder), dtype=torch.float32, label="models.clip")
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize("lost", ["visual_projection.weight", "text_model.final_layer_norm.bias"])
def test_a_missing_weight_is_an_error_and_not_initialised_at_random(tiny_models, tmp_path, lost):
    folder = tmp_path / "clip"
    shutil.copytree(tiny_models.clip, folder)
    weights = load_file(folder / WEIGHTS)
    del weights[lost]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"models\.clip = .*: 1 weights of CLIPModel are missing.*{lost}"):
        ClipScorer(str(folder))


def test_a_weight_of_another_shape_is_an_error_that_names_it(tiny_models, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(tiny_models.clip, folder)
    weights = load_file(folder / WEIGHTS)
    weights["text_projection.weight"] = torch.zeros(3, 5)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights of CLIPModel .* another shape \(text_projection\.weight\)"):
        ClipScorer(str(folder))


@pytest.mark.parametrize(
    ("make", "file"),
    [(make_public_clip, "pytorch_model.bin"), (make_public_open_clip, "open_clip_pytorch_model.bin")],
)
def test_a_bin_file_of_tensors_loads_and_one_with_code_is_refused_without_running_it(tmp_path, images, make, file):
    folder = make(tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        torch.save(load_file(weights), folder / file)
        weights.unlink()
    assert np.isfinite(ClipScorer(str(folder)).scores(images[:1], ["a cat"])).all()
    torch.save({**torch.load(folder / file, weights_only=True), "code": Code(tmp_path / "ran")}, folder / file)
    with pytest.raises(ConfigError, match=r"models\.clip = .*pickle that holds more than tensors.*safetensors"):
        ClipScorer(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape", [None, (3, 5)], ids=["missing", "another shape"])
def test_an_open_clip_folder_with_missing_weights_is_refused(tmp_path, shape):
    folder = make_public_open_clip(tmp_path / "model")
    weights = load_file(folder / "open_clip_model.safetensors")
    del weights["text_projection"]
    if shape:
        weights["text_projection"] = torch.zeros(shape)
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match=r"models\.clip = .*OpenCLIP cannot load it \(.*text_projection"):
        ClipScorer(str(folder))


def test_every_processor_resizes_like_pillow_and_the_fast_path_gives_identical_pixels(tiny_models, images):
    for folder in (tiny_models.clip, tiny_models.watermark, tiny_models.captioner):
        processor = load_processor(str(folder))
        processor = getattr(processor, "image_processor", processor)
        prepare, levels = resizing(processor)
        assert levels is not None
        wanted = processor(images=images, return_tensors="pt")["pixel_values"]
        assert torch.equal(as_pixels(images, prepare, levels, "cpu", torch.float32), wanted)
        square = prepare(images[3]).numpy()
        resized = images[3].resize(square.shape[1::-1], Image.Resampling(processor.resample))
        assert np.array_equal(square, np.asarray(resized))
