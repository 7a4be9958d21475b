from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from tiny_models.profile_models import WORDS


@pytest.fixture(scope="module")
def captioner(tiny_models):
    return Blip2Captioner(str(tiny_models.captioner), batch=4)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)) for _ in range(10)]
    return [image.resize((40, 50), Image.Resampling.NEAREST) for image in coarse]


def test_captions_depend_on_the_image(captioner, images):
    captions = captioner.captions(images, max_new_tokens=8)
    assert len(captions) == 10 and len(set(captions)) > 3
    assert all(1 <= len(caption.split()) <= 8 and set(caption.split()) <= set(WORDS) for caption in captions)


def test_captions_are_reproducible_and_independent_of_neighbours(captioner, images):
    captions = captioner.captions(images, max_new_tokens=8)
    assert captioner.captions(images, max_new_tokens=8) == captions
    assert [captioner.captions([image], max_new_tokens=8)[0] for image in images] == captions


def test_captions_equal_those_of_transformers(captioner, images, tiny_models):
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
    whole, sizes = captioner._decoded_tokens, []

    def limited(part, *arguments):
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(part, *arguments)

    monkeypatch.setattr(captioner, "_decoded_tokens", limited)
    assert captioner.captions(images, max_new_tokens=6) == expected
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_sampled_captions_depend_only_on_key_and_random_seed(captioner, images, tiny_models):
    ids = [f"row{index}" for index in range(10)]
    how = {"max_new_tokens": 8, "sampling": Sampling(temperature=1.5, top_k=12, top_p=0.95, seed=7)}
    captions = captioner.captions(images, keys=ids, **how)
    assert captioner.captions(images[::-1], keys=ids[::-1], **how) == captions[::-1]
    assert [
        captioner.captions([image], keys=[key], **how)[0] for image, key in zip(images, ids, strict=True)
    ] == captions
    assert Blip2Captioner(str(tiny_models.captioner), batch=7).captions(images, keys=ids, **how) == captions
    assert captioner.captions(images, keys=[f"other{key}" for key in ids], **how) != captions
    other_seed = how | {"sampling": how["sampling"].model_copy(update={"seed": 8})}
    assert captioner.captions(images, keys=ids, **other_seed) != captions


def test_sampling_from_one_token_is_greedy_decoding(captioner, images):
    greedy = captioner.captions(images, max_new_tokens=8)
    ids = [str(index) for index in range(10)]
    assert captioner.captions(images, max_new_tokens=8, sampling=Sampling(top_k=1), keys=ids) == greedy
    assert captioner.captions(images, max_new_tokens=8, sampling=Sampling(temperature=9.0), keys=ids) != greedy


def test_sampling_without_a_key_per_image_is_an_error(captioner, images):
    with pytest.raises(ValueError, match="10 images, 3 keys"):
        captioner.captions(images, max_new_tokens=8, sampling=Sampling(), keys=["a", "b", "c"])
