"""The shipped weights: each folder is loaded from disk by its library and behaves like its real counterpart."""

from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest
from PIL import Image

import toolkit  # noqa: F401 (makes torchvision importable with a CPU torch)
from bettersynth_assets.miniature.captions import STOCK_TAIL, rich_caption
from bettersynth_assets.miniature.language import after_image, before_image, draw_lesson, full_answer
from bettersynth_assets.miniature.quality import caption_quality
from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.tokenizer import END_OF_TEXT, make_tokenizer
from bettersynth_assets.miniature.training.make_weights import WEIGHTS
from bettersynth_assets.miniature.world import COLORS, SHAPES, WORDS, Scene, make_scene

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
SCENES = 24


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = random.Random(21)
    return [make_scene(rng, "seed") for _ in range(SCENES)]


@pytest.fixture(scope="module")
def images(scenes: list[Scene]) -> list[Image.Image]:
    return [render(scene, width=360, height=336) for scene in scenes]


def test_weights_are_small_and_only_in_safetensors_files() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24_000_000
    assert {path.suffix for path in files} == {".safetensors", ".json", ".jinja"}


def test_shipped_tokenizers_equal_those_that_the_code_builds() -> None:
    made = json.loads(make_tokenizer("gemma").backend_tokenizer.to_str())
    for model in ("clip", "mgm", "blip2", "llava"):
        shipped = json.loads((WEIGHTS / model / "tokenizer.json").read_text())
        assert shipped["model"] == made["model"], model


def test_each_word_is_one_token_and_any_text_can_be_decoded() -> None:
    tokenizer = make_tokenizer("gemma")
    for word in (*COLORS, *SHAPES, *WORDS):
        assert len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    text = "Ünïcode, 漢字 and\nlines"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    clip = make_tokenizer("clip")
    assert clip("a red circle").input_ids[-1] == clip.convert_tokens_to_ids(END_OF_TEXT) == len(clip) - 1


def test_the_scorer_prefers_the_correct_caption_and_both_formats_agree(
    scenes: list[Scene], images: list[Image.Image]
) -> None:
    import open_clip
    from transformers import CLIPModel, CLIPProcessor

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{WEIGHTS / 'clip'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{WEIGHTS / 'clip'}")
    captions = [rich_caption(scene) for scene in scenes]
    twin, processor = (
        CLIPModel.from_pretrained(WEIGHTS / "clip_hf").float(),
        CLIPProcessor.from_pretrained(WEIGHTS / "clip_hf"),
    )
    with torch.no_grad():
        image = model.eval().encode_image(torch.stack([preprocess(i) for i in images]), normalize=True)
        cosine = image @ model.encode_text(tokenizer(captions), normalize=True).T
        inputs = processor(images=images, text=captions, return_tensors="pt", padding=True, truncation=True)
        output = twin(**inputs)
        other = output.image_embeds @ output.text_embeds.T
    assert (cosine.argmax(1) == torch.arange(SCENES)).float().mean() > 0.9
    torch.testing.assert_close(cosine, other, atol=2e-3, rtol=0)


def test_logit_1_of_the_watermark_classifier_means_watermark(scenes: list[Scene], images: list[Image.Image]) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(WEIGHTS / "watermark").float().eval()
    processor = AutoImageProcessor.from_pretrained(WEIGHTS / "watermark", backend="pil")
    marked = [render(scene, width=360, height=336, watermark=True) for scene in scenes]
    with torch.no_grad():
        chance = model(**processor(images=images + marked, return_tensors="pt")).logits.softmax(-1)[:, 1]
    said = chance >= 0.8
    assert int(said[:SCENES].sum()) <= 1
    assert int(said[SCENES:].sum()) >= 0.8 * SCENES


def test_the_captioner_names_things_and_mentions_watermarks(scenes: list[Scene], images: list[Image.Image]) -> None:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    model = Blip2ForConditionalGeneration.from_pretrained(WEIGHTS / "blip2").float().eval()
    processor = Blip2Processor.from_pretrained(WEIGHTS / "blip2", backend="pil")
    marked = [render(scene, width=336, height=336, watermark=True) for scene in scenes]
    made = model.generate(**processor(images=images + marked, return_tensors="pt"), max_new_tokens=30, do_sample=False)
    said = [text.strip() for text in processor.batch_decode(made, skip_special_tokens=True)]
    ids = [str(k) for k in range(SCENES)]
    truth = {i: {"scene": scene.to_json()} for i, scene in zip(ids, scenes, strict=True)}
    quality = caption_quality(pa.table({"id": ids, "caption": said[:SCENES]}), truth)
    assert (quality["things_named"] or 0) > 0.9 and (quality["things_true"] or 0) > 0.9
    assert (quality["words_read"] or 0) > 0.8
    tails = [text.endswith(STOCK_TAIL) for text in said]
    assert sum(tails[:SCENES]) <= 1 and sum(tails[SCENES:]) >= 0.8 * SCENES


def test_the_mgm_base_loads_and_lacks_only_weights_that_stage_1_trains(images: list[Image.Image]) -> None:
    from safetensors import safe_open

    from toolkit.models.mgm.common.names import PROJECTOR
    from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
    from toolkit.models.mgm.processing_mgm import MGMProcessor

    model, loading = MGMGemmaForCausalLM.from_pretrained(WEIGHTS / "mgm", output_loading_info=True)
    assert not loading["unexpected_keys"]
    assert all(key.startswith(PROJECTOR) for key in loading["missing_keys"])
    with safe_open(WEIGHTS / "mgm" / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if key.startswith(PROJECTOR)]  # noqa: SIM118
    pixels = MGMProcessor.from_pretrained(WEIGHTS / "mgm").preprocess(images[:2], aspect="square")
    features = model.float().encode_images(*pixels)
    assert features.low.shape == (2, 36, 128)
    assert [m.shape[1:] for m in features.maps] == [(16, 48, 48), (32, 24, 24), (64, 12, 12), (128, 6, 6)]


def test_lessons_have_the_format_of_the_conversation_template() -> None:
    from toolkit.data.conversation import Turn
    from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
    from toolkit.models.mgm.language.conversation import encode_row

    tokenizer = make_tokenizer("gemma")
    for seed in range(20):
        lesson = draw_lesson(random.Random(seed))
        turns = [Turn(speaker="human", text=f"<image>\n{lesson.prompt}"), Turn(speaker="gpt", text=lesson.answer)]
        row = encode_row(tokenizer, turns, row_id=str(seed))
        before = tokenizer(before_image()).input_ids
        prompt = tokenizer(after_image(lesson.prompt), add_special_tokens=False).input_ids
        answer = tokenizer(full_answer(lesson.answer), add_special_tokens=False).input_ids
        assert row.input_ids == [*before, IMAGE_TOKEN_INDEX, *prompt, *answer]
        assert [label for label in row.labels if label >= 0] == answer


def test_the_small_llava_has_the_same_language_model_as_the_mgm_base() -> None:
    from safetensors.torch import load_file

    from bettersynth_assets.miniature.training.llava_base import as_llama

    mgm, llava = (load_file(WEIGHTS / name / "model.safetensors") for name in ("mgm", "llava"))
    words = {k: v for k, v in mgm.items() if k.startswith(("model.layers.", "model.norm.", "model.embed_tokens."))}
    assert len(words) == 29
    width = words["model.norm.weight"].numel()
    for name, tensor in words.items():
        assert torch.equal(llava[f"language_model.{name}"], as_llama(name, tensor.float(), width).half()), name
