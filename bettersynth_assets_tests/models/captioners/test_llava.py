from __future__ import annotations

import re

import pytest
import torch

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.captioners.caption_cleaning import clean
from bettersynth_assets.models.captioners.llava import PROMPT, LlavaCaptioner
from bettersynth_assets.models.captioners.sentences import trim_incomplete
from bettersynth_assets.models.checkpoints import load_processor
from tiny_models.synthesis import CHAT_TEMPLATE, SIDE, distinct_images, make_llava

LIMIT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llava(tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="module")
def captioner(folder):
    return LlavaCaptioner(str(folder), batch=4)


@pytest.fixture(scope="module")
def images():
    return distinct_images()


def one_at_a_time(folder, images, text):
    """Return the captions of transformers' processor and ``generate``, one image at a time."""
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = load_processor(folder)
    captions = []
    for image in images:
        inputs = processor(images=image, text=text, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        captions.append((processor.decode(output, skip_special_tokens=True).strip(), 3 in output.tolist()))
    return captions


def test_captions_equal_those_of_transformers_on_one_image_at_a_time(captioner, folder, images):
    expected = one_at_a_time(folder, images, "USER: <image>\na photo of the red ASSISTANT:")
    assert len({text for text, _ in expected}) > 3 and {ended for _, ended in expected} == {True, False}
    found = captioner.captions(images, prompt="a photo of the red", max_new_tokens=LIMIT)
    assert found == [text if ended else trim_incomplete(text) for text, ended in expected]


@pytest.mark.slow
def test_the_checkpoints_chat_template_is_used_if_it_has_one(captioner, folder, images, tmp_path):
    templated = make_llava(tmp_path / "templated", chat_template=CHAT_TEMPLATE.replace("ASSISTANT:", "the ASSISTANT:"))
    found = LlavaCaptioner(str(templated), batch=4).captions(images, prompt="a dog", max_new_tokens=LIMIT)
    expected = one_at_a_time(folder, images, "USER: <image>\na dog the ASSISTANT:")
    assert found == [text if ended else trim_incomplete(text) for text, ended in expected]
    assert found != captioner.captions(images, prompt="a dog", max_new_tokens=LIMIT)


@pytest.mark.slow
def test_images_are_resized_to_bytes_in_threads_and_other_processors_are_called_unchanged(captioner, images, tmp_path):
    from transformers import LlavaImageProcessor

    prepared = [captioner.prepare(image) for image in images]
    assert prepared[0].shape == (SIDE, SIDE, 3) and prepared[0].dtype == torch.uint8
    assert captioner.captions(prepared, max_new_tokens=6) == captioner.captions(images, max_new_tokens=6)
    crop = {"height": SIDE, "width": SIDE}
    padding = LlavaImageProcessor(do_pad=True, size={"shortest_edge": SIDE}, crop_size=crop)
    padded = make_llava(tmp_path / "padded", image_processor=padding)
    expected = one_at_a_time(padded, images, "USER: <image>\na dog ASSISTANT:")
    found = LlavaCaptioner(str(padded), batch=3).captions(images, prompt="a dog", max_new_tokens=LIMIT)
    assert found == [text if ended else trim_incomplete(text) for text, ended in expected]


def test_sampled_captions_do_not_depend_on_position_or_batch(captioner, folder, images):
    ids = [f"row{index}" for index in range(10)]
    how = {"max_new_tokens": 8, "sampling": Sampling(temperature=1.5, top_p=0.9, seed=3)}
    captions = captioner.captions(images, keys=ids, **how)
    assert LlavaCaptioner(str(folder), batch=3).captions(images[::-1], keys=ids[::-1], **how) == captions[::-1]
    assert captions != captioner.captions(images, max_new_tokens=8)
    again = captioner.captions(images, keys=ids, max_new_tokens=8, sampling=Sampling(temperature=1.5, seed=4))
    assert again != captions


def test_the_default_question_asks_for_one_short_sentence():
    assert "<" not in PROMPT and "\n" not in PROMPT and len(PROMPT.split()) < 70
    example = re.split(r"(?<=: )", PROMPT)[-1]
    assert 4 <= len(example.split()) <= 24 and trim_incomplete(example) == example
    assert clean(f"{PROMPT} Two dogs.", PROMPT) == ("Two dogs.", ("prompt_echo",))


@pytest.mark.parametrize(
    ("broken_off", "left"),
    [
        ("A girl sits on a swing. Behind her are tre", "A girl sits on a swing."),
        ("A girl on a swing, in a par", "A girl on a swing, in a"),
        ("A girl on a swing, par", "A girl on a swing"),
        ("Ends here. And here! But no", "Ends here. And here!"),
        ("It is 3.5 metres wi", "It is 3.5 metres"),
        ("It ends.", "It ends."),
        ("Donaudampf", "Donaudampf"),
        ("", ""),
    ],
)
def test_a_truncated_caption_ends_with_its_last_complete_sentence_or_word(broken_off, left):
    assert trim_incomplete(broken_off) == left
