from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.captioner import Blip2Captioner, load_captioner
from bettersynth_assets_tests.models import WORDS
from bettersynth_assets_tests.operators.rows import tiny_profile


@pytest.fixture(scope="module")
def captioner(tiny_models):
    return Blip2Captioner(str(tiny_models.captioner), batch=4)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(10)]
    return [image.resize((40, 50), Image.Resampling.NEAREST) for image in coarse]


def test_each_image_gets_a_caption_of_its_own(captioner, images):
    captions = captioner.captions(images, max_new_tokens=8)
    assert len(captions) == 10 and len(set(captions)) > 3
    assert all(1 <= len(caption.split()) <= 8 and set(caption.split()) <= set(WORDS) for caption in captions)


def test_captions_come_again_the_same_and_do_not_depend_on_neighbours(captioner, images):
    captions = captioner.captions(images, max_new_tokens=8)
    assert captioner.captions(images, max_new_tokens=8) == captions
    assert [captioner.captions([image], max_new_tokens=8)[0] for image in images] == captions


def test_captions_equal_those_of_transformers_own_call(captioner, images, tiny_models):
    from transformers import AutoProcessor, Blip2ForConditionalGeneration

    model = Blip2ForConditionalGeneration.from_pretrained(tiny_models.captioner)
    processor = AutoProcessor.from_pretrained(tiny_models.captioner)
    inputs = processor(images=images[:4], return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = [text.strip() for text in processor.batch_decode(output, skip_special_tokens=True)]
    assert captioner.captions(images[:4], max_new_tokens=8) == expected


def test_a_prompt_steers_the_caption_and_is_not_part_of_it(captioner, images):
    plain = captioner.captions(images, max_new_tokens=4)
    steered = captioner.captions(images, prompt="a photo of the", max_new_tokens=4)
    assert steered != plain
    assert all(len(caption.split()) <= 4 for caption in steered)


def test_prepared_images_give_the_same_captions(captioner, images):
    prepared = [captioner.prepare(image) for image in images]
    assert prepared[0].shape == (32, 32, 3) and prepared[0].dtype == torch.uint8
    assert captioner.captions(prepared, max_new_tokens=6) == captioner.captions(images, max_new_tokens=6)


def test_out_of_memory_halves_the_batch_and_gives_the_same_captions(tiny_models, images, monkeypatch):
    captioner = Blip2Captioner(str(tiny_models.captioner), batch=8)
    expected = captioner.captions(images, max_new_tokens=6)
    whole, sizes = captioner._caption, []

    def limited(part, *arguments):
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(part, *arguments)

    monkeypatch.setattr(captioner, "_caption", limited)
    assert captioner.captions(images, max_new_tokens=6) == expected
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_many_shards_load_the_model_once_and_a_missing_one_is_named(tiny_models):
    gpu = tiny_profile(tiny_models).gpu
    assert load_captioner(str(tiny_models.captioner), gpu) is load_captioner(str(tiny_models.captioner), gpu)
    with pytest.raises(ConfigError, match=r"models\.captioner = './gone'"):
        load_captioner("./gone", gpu)
