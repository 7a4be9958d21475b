from __future__ import annotations

import numpy as np
import pytest
import torch

from bettersynth_assets.config.recipe import Recipe, RegenerateSection
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.diffusion import ImageMaker, load_image_maker
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets_tests.helpers.rows import CAPTIONS, tiny_profile
from tiny_models.synthesis import make_stable_diffusion

pytestmark = pytest.mark.slow  # loading the library alone takes seconds

SECTION = RegenerateSection(steps=3, seed=5)
IDS = tuple(f"row{index}" for index in range(len(CAPTIONS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_models):
    return make_stable_diffusion(tmp_path_factory.mktemp("diffusion") / "sd", tiny_models.clip)


@pytest.fixture
def maker(folder):
    return ImageMaker(str(folder), batch=3)


def pixels(found):
    return [None if image is None else np.asarray(image) for _, image in sorted(found, key=lambda pair: pair[0])]


def test_an_image_depends_only_on_caption_id_and_random_seed(maker, folder):
    images = pixels(maker.images(CAPTIONS, IDS, SECTION))
    assert all(image.shape == (16, 16, 3) for image in images)
    again = pixels(ImageMaker(str(folder), batch=1).images(CAPTIONS[::-1], IDS[::-1], SECTION))
    np.testing.assert_array_equal(again[::-1], images)
    (other_id,) = pixels(maker.images(CAPTIONS[:1], ["other"], SECTION))
    (other_caption,) = pixels(maker.images(["blue"], IDS[:1], SECTION))
    (other_seed,) = pixels(maker.images(CAPTIONS[:1], IDS[:1], SECTION.model_copy(update={"seed": 6})))
    for other in (other_id, other_caption, other_seed):
        assert np.abs(other.astype(int) - images[0]).mean() > 1


def test_images_equal_those_of_the_plain_pipeline_with_the_same_noise(maker, folder, monkeypatch):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setattr("bettersynth_assets.models.diffusion._generator", lambda *_: torch.Generator().manual_seed(9))
    (single,) = pixels(maker.images(CAPTIONS[:1], IDS[:1], SECTION))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(9)
    expected = pipeline(CAPTIONS[0], generator=generator, num_inference_steps=3, guidance_scale=7.5).images[0]
    np.testing.assert_array_equal(single, np.asarray(expected))


def test_side_sets_the_size_of_the_images(maker):
    (image,) = pixels(maker.images(CAPTIONS[:1], IDS[:1], SECTION.model_copy(update={"side": 24})))
    assert image.shape == (24, 24, 3)


def concept_cosines(pipeline, images):
    """Of the safety checker's second concept, whose cosines differ between images."""
    inputs = pipeline.feature_extractor(images, return_tensors="pt").pixel_values
    checker = pipeline.safety_checker
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(inputs)[1])
        return torch.nn.functional.cosine_similarity(embeds, checker.concept_embeds[1:2])


def test_a_refused_image_is_generated_again_with_other_noise_and_the_others_are_kept(maker):
    first = dict(maker.images(CAPTIONS, IDS, SECTION))
    pipeline = maker._pipeline
    cosines = concept_cosines(pipeline, [first[at] for at in range(len(CAPTIONS))])
    pipeline.safety_checker.concept_embeds_weights.data[1] = cosines.median()
    refused = {at for at, cosine in enumerate(cosines) if cosine > cosines.median() + 5e-4}  # it rounds to 1e-3
    once = dict(maker.images(CAPTIONS, IDS, SECTION.model_copy(update={"tries": 1})))
    assert 0 < len(refused) < len(CAPTIONS) and {at for at, image in once.items() if image is None} == refused
    often = dict(maker.images(CAPTIONS, IDS, SECTION.model_copy(update={"tries": 20})))
    assert sorted(often) == list(range(len(CAPTIONS))) and any(often[at] is not None for at in refused)
    for at, image in once.items():
        if image is not None:
            np.testing.assert_array_equal(np.asarray(often[at]), np.asarray(image))
    new = [at for at in refused if often[at] is not None]
    assert all(np.abs(np.asarray(often[at]).astype(int) - np.asarray(first[at])).mean() > 1 for at in new)


def test_attempts_are_limited_if_every_image_is_refused(tmp_path, tiny_models):
    maker = ImageMaker(str(make_stable_diffusion(tmp_path / "sd", tiny_models.clip, refuses_all=True)), batch=4)
    calls = []
    whole = maker._make
    maker._make = lambda captions, *rest: calls.append(len(captions)) or whole(captions, *rest)
    assert list(maker.images(CAPTIONS, IDS, SECTION.model_copy(update={"tries": 2}))) == [(at, None) for at in range(5)]
    assert calls == [4, 1, 4, 1]


def test_a_profile_without_a_pipeline_and_a_folder_that_is_not_one_are_named(tiny_models, folder):
    profile = tiny_profile(tiny_models)
    with pytest.raises(ConfigError, match=r"models\.diffusion = .*cannot load it as a text-to-image pipeline"):
        load_image_maker(resolve_model(str(tiny_models.clip), role="diffusion"), profile.gpu)
    one, again = (resolve_model(str(folder), role="diffusion") for _ in range(2))
    assert load_image_maker(one, profile.gpu) is load_image_maker(again, profile.gpu)


def with_model(profile, model):
    return profile.model_copy(update={"models": profile.models.model_copy(update={"diffusion": model})})


def test_a_missing_package_is_named_with_the_recipe_before_any_row_is_processed(tiny_models, tmp_path, monkeypatch):
    recipe = Recipe.parse({"name": "test", "regenerate": {}}, where="test")
    settings = Settings(
        profile=with_model(tiny_profile(tiny_models), "org/pipeline"), recipe=recipe, data_root=tmp_path
    )
    assert check_recipe(ResolvedRun(settings)) == []
    monkeypatch.setattr("bettersynth_assets.models.diffusion.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package 'diffusers': pip install 'bettersynth-assets\[operators\]'"
    ):
        check_recipe(ResolvedRun(settings))
