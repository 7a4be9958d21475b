"""Scores of every model family against those of its library, on tiny checkpoints of each class."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.pixels import Resizing, as_pixels
from bettersynth_assets.models.scorers import SCORERS, scorer_kind
from bettersynth_assets.models.scorers.backend import as_product, patch_convolution
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets_tests.helpers.library_scores import open_clip_scores, transformers_scores
from bettersynth_assets_tests.helpers.public_repositories import make_public_metaclip2
from tiny_models import scorers as small_scorers
from tiny_models.scorers import LIMIT, OPEN_CLIP, TRANSFORMERS

CAPTIONS = ["a photo of the red Square", "two", "", "small dog on a large cat", "blue " * 13, "a " * 200]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("scorers")
    checkpoints = {("transformers", name): make(root / name) for name, make in TRANSFORMERS.items()}
    return checkpoints | {("open_clip", name): make(root / f"open_clip_{name}") for name, make in OPEN_CLIP.items()}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    sizes = [(64, 48), (47, 91), (301, 200), (33, 33), (17, 640), (31, 30)]
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


CASES = [*(("transformers", name) for name in TRANSFORMERS), *(("open_clip", name) for name in OPEN_CLIP)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_scores_equal_those_of_the_checkpoints_library(folders, images, case):
    if case[0] == "transformers":
        # By default Siglip2Processor uses other sizes.
        sizes = {"patch_size": 5, "max_num_patches": 30} if case[1] == "siglip2" else {}
        expected = transformers_scores(folders[case], images, CAPTIONS, limit=LIMIT, **sizes)
    else:
        expected = open_clip_scores(folders[case], images, CAPTIONS)
    scorer = ClipScorer(str(folders[case]), batch=4)
    np.testing.assert_allclose(scorer.scores(images, CAPTIONS), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01
    embeddings = scorer.image_embeddings(images)
    np.testing.assert_allclose((embeddings**2).sum(1), 1, atol=1e-5)


def test_metaclip_2_has_its_recorded_scores_and_not_those_of_the_clip_class(folders, images):
    """Loaded as a CLIPModel, which only makes transformers warn, most pairs get a different score."""
    from transformers import CLIPModel

    recorded = [-0.0111, 0.5422, 0.3448, 0.0631, 0.4113, -0.0160]
    folder = folders["transformers", "metaclip_2"]
    np.testing.assert_allclose(ClipScorer(str(folder)).scores(images, CAPTIONS), recorded, atol=1e-4)
    as_clip = transformers_scores(folder, images, CAPTIONS, limit=LIMIT, model_class=CLIPModel)
    np.testing.assert_allclose(as_clip, [0.3510, -0.1822, 0.3448, -0.2030, 0.4882, -0.5210], atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_caption_is_truncated_exactly_at_the_tokenizers_limit(folders, images, case):
    scorer = ClipScorer(str(folders[case]))
    specials = {("transformers", "siglip"): 1, ("open_clip", "siglip"): 1, ("transformers", "siglip2"): 0}.get(case, 2)
    word = "a" if case == ("transformers", "siglip2") else "a "
    words = [word * (LIMIT - specials), word * (LIMIT - specials + 1), word * 90, "a", ""]
    tokens = scorer.tokens(words)
    assert tokens.truncated.tolist() == [False, True, True, False, False]
    assert scorer.tokens([]).truncated.tolist() == [] and len(scorer.scores([], [])) == 0
    long = scorer.scores([images[0]] * 2, [words[1], words[2]])
    assert long[0] == pytest.approx(long[1], abs=1e-5)


SQUASHED = [("transformers", "siglip"), ("open_clip", "siglip")]


@pytest.mark.parametrize("case", SQUASHED, ids="-".join)
def test_squashed_images_use_the_fast_path_and_equal_the_checkpoints_pixels(folders, images, case):
    scorer = ClipScorer(str(folders[case]))
    assert isinstance(scorer.prepare, Resizing)
    if case[0] == "transformers":
        from transformers import SiglipImageProcessorPil

        processor = SiglipImageProcessorPil.from_pretrained(folders[case])
        expected = processor(images=images, return_tensors="pt")["pixel_values"]
    else:
        import open_clip

        _, transform = open_clip.create_model_from_pretrained(f"local-dir:{folders[case]}")
        expected = torch.stack([transform(image) for image in images])
    assert torch.equal(as_pixels(images, scorer.prepare, scorer._backend.levels, "cpu", torch.float32), expected)


def test_metaclip_2_squashes_with_clips_processor_and_uses_the_fast_path(tmp_path, images):
    from transformers import CLIPImageProcessorPil

    folder = make_public_metaclip2(tmp_path / "metaclip_2")
    scorer = ClipScorer(str(folder))
    assert isinstance(scorer.prepare, Resizing)
    expected = CLIPImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(as_pixels(images, scorer.prepare, scorer._backend.levels, "cpu", torch.float32), expected)


@pytest.mark.parametrize(
    ("case", "layers", "cuts"),
    [
        (("transformers", "siglip"), 2, True), (("transformers", "metaclip_2"), 2, True),
        (("open_clip", "open_clip"), 2, True), (("open_clip", "siglip"), 6, True),
        (("open_clip", "convnext"), 4, False), (("open_clip", "coca"), 2, True),
    ],
)  # fmt: skip
def test_the_layers_of_every_image_tower_are_found_for_compilation(folders, images, case, layers, cuts):
    scorer = ClipScorer(str(folders[case]))
    backend = scorer._backend
    assert len(backend.image_layers) >= layers and (backend.patches is not None) == cuts
    if cuts:
        before = scorer.scores(images, CAPTIONS)
        as_product(backend.patches)
        np.testing.assert_allclose(scorer.scores(images, CAPTIONS), before, atol=1e-5)


def test_overlapping_or_padded_windows_use_the_convolution():
    conv = torch.nn.Conv2d
    assert patch_convolution(conv(3, 4, 5, stride=5)) is not None
    for other in (conv(3, 4, 5, stride=4), conv(3, 4, 4, stride=4, padding=1), torch.nn.Linear(3, 4), None):
        assert patch_convolution(other) is None
    uneven, pixels = conv(3, 8, 4, stride=4), torch.randn(2, 3, 14, 21)
    expected = uneven(pixels)
    as_product(uneven)
    torch.testing.assert_close(uneven(pixels), expected)


@pytest.mark.slow
def test_compiling_a_timm_tower_compiles_its_layers(folders):
    folder = folders["open_clip", "siglip"]
    compiled = ClipScorer(str(folder), batch=6, compiled=True)
    layers = compiled._backend.image_layers
    assert layers and all(layer._compiled_call_impl is not None for layer in layers)


def test_an_unknown_model_type_is_refused_with_a_list_of_the_known_ones(tiny_models, folders, tmp_path):
    with pytest.raises(
        ConfigError, match=r"model_type 'vit', but scorers are of type clip, metaclip_2, open_clip, sig"
    ):
        ClipScorer(str(tiny_models.watermark))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"it has no config\.json with a model_type.*hf-hub:org/name"):
        ClipScorer(str(tmp_path / "empty"))
    # As before the dispatch: MetaCLIP 2 under CLIP's class, here by a config.json that lies.
    liar = shutil.copytree(folders["transformers", "siglip"], tmp_path / "liar")
    config = json.loads((liar / "config.json").read_text())
    (liar / "config.json").write_text(json.dumps({**config, "model_type": "siglip2"}))
    with pytest.raises(ConfigError, match="weights of Siglip2Model are missing or have another shape"):
        ClipScorer(str(liar))


def test_each_checkpoint_is_dispatched_by_its_configuration(folders):
    kinds = {case: scorer_kind(str(folder)) for case, folder in folders.items()}
    assert all(kind == (case[1] if case[0] == "transformers" else "open_clip") for case, kind in kinds.items())
    assert scorer_kind("hf-hub:org/name") == "open_clip"
    assert {*kinds.values()} == {*SCORERS.names()} - {*SCORERS.from_outside()}
    assert small_scorers.SIDE % 2 == 0
