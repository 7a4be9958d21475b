"""Model-based operators of Data-Juicer in a recipe, each with a small local model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.checkpoints import load_processor
from bettersynth_assets.operators.process import run_process
from bettersynth_assets_tests.helpers.operators import build_operators, operators_key
from bettersynth_assets_tests.helpers.rows import CAPTIONS, break_image, scored_table, tiny_profile
from tiny_models.image_models import make_aesthetics, make_blip_itm

COUNT = 20


@pytest.fixture(scope="module")
def blip_itm(tmp_path_factory):
    return make_blip_itm(tmp_path_factory.mktemp("models") / "blip-itm", CAPTIONS)


@pytest.fixture
def entries(tiny_models, blip_itm):
    return {
        "similarity": {"image_text_similarity_filter": {"hf_clip": str(tiny_models.clip), "min_score": -0.13}},
        "nsfw": {"image_nsfw_filter": {"hf_nsfw_model": str(tiny_models.watermark), "max_score": 0.4}},
        "matching": {"image_text_matching_filter": {"hf_blip": str(blip_itm), "min_score": 0.9984}},
    }


def process(root, models, entry, table):
    built = build_operators([entry], tiny_profile(models))
    return run_process(table, built, stage="filtered_set", image_root=root, rescore=None)


@pytest.mark.parametrize(
    ("name", "stat", "argument"),
    [
        ("similarity", "image_text_similarity", "< min_score -0.13"),
        ("nsfw", "image_nsfw_score", "> max_score 0.4"),
        ("matching", "image_text_matching_score", "< min_score 0.9984"),
    ],
)
def test_each_row_is_kept_or_rejected_by_the_models_score(name, stat, argument, entries, tmp_path, tiny_models):
    table = scored_table(tmp_path, COUNT)
    done = process(tmp_path, tiny_models, entries[name], table)
    kept, rejected = done.kept["id"].to_pylist(), done.rejects["id"].to_pylist()
    assert sorted([*kept, *rejected]) == table["id"].to_pylist() and kept and rejected
    assert all(reason.startswith(stat) and reason.endswith(argument) for reason in done.rejects["reason"].to_pylist())
    is_low = "<" in argument
    limit = float(argument.split()[-1])
    assert all((json.loads(text)[stat] >= limit) == is_low for text in done.kept["stats"].to_pylist())
    again = process(tmp_path, tiny_models, entries[name], table)
    assert again.kept == done.kept and again.rejects == done.rejects


@pytest.mark.parametrize("name", ["similarity", "nsfw", "matching"])
def test_a_broken_image_is_quarantined_alone(name, entries, tmp_path, tiny_models):
    table = scored_table(tmp_path, COUNT)
    whole = process(tmp_path, tiny_models, entries[name], table)
    break_image(tmp_path, table["image"][3].as_py())
    done = process(tmp_path, tiny_models, entries[name], table)
    assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [("row003", "decode_error")]
    assert done.kept["id"].to_pylist() == [row_id for row_id in whole.kept["id"].to_pylist() if row_id != "row003"]


def test_the_matching_score_equals_the_models_probability(entries, tmp_path, tiny_models, blip_itm):
    import torch
    from PIL import Image
    from transformers import BlipForImageTextRetrieval

    table = scored_table(tmp_path, 4)
    entry = {"image_text_matching_filter": {"hf_blip": str(blip_itm), "min_score": 0}}
    done = process(tmp_path, tiny_models, entry, table)
    model, processor = BlipForImageTextRetrieval.from_pretrained(blip_itm), load_processor(blip_itm)
    assert done.kept.num_rows == 4
    for row in done.kept.to_pylist():
        image = Image.open(tmp_path / row["image"]).convert("RGB")
        inputs = processor(text=row["caption"], images=image, return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            expected = model(**inputs).itm_score.softmax(-1)[0, 1].item()
        assert json.loads(row["stats"])["image_text_matching_score"] == pytest.approx(expected, abs=1e-5)


def test_a_model_folder_that_the_recipe_names_is_part_of_the_key(entries, tiny_models, blip_itm):
    profile = tiny_profile(tiny_models)
    before = operators_key([entries["matching"]], profile)
    assert list(before) == ["image_text_matching_filter.hf_blip", "image_text_matching_filter.way"]
    extra = Path(blip_itm) / "notes.txt"
    extra.write_text("changed")
    assert operators_key([entries["matching"]], profile) != before
    extra.unlink()


@pytest.mark.parametrize("name", ["weights", "aesthetics-predictor-v3"])
def test_a_folder_name_that_the_aesthetics_filter_cannot_parse_is_refused_before_any_row(name, tmp_path, tiny_models):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"hf_scorer_model = .*aesthetics-predictor-v1"):
        build_operators(
            [{"image_aesthetics_filter": {"hf_scorer_model": str(tmp_path / name)}}], tiny_profile(tiny_models)
        )


def test_aesthetics_scores_equal_those_of_the_profiles_model(tmp_path, tiny_models):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    from bettersynth_assets.models.aesthetics import AestheticsPredictorV2Linear

    folder = make_aesthetics(tmp_path / "aesthetics-predictor-v2-linear", tiny_models.clip)
    profile = tiny_profile(tiny_models)
    profile = profile.model_copy(update={"models": profile.models.model_copy(update={"aesthetics": str(folder)})})
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    table = scored_table(tmp_path, COUNT)
    with torch.no_grad():  # a bias that centres the random scores on the limit
        model = AestheticsPredictorV2Linear.from_pretrained(folder)
        images = [Image.open(tmp_path / name).convert("RGB") for name in table["image"].to_pylist()]
        model.layers[-1].bias -= model(**processor(images=images, return_tensors="pt")).logits.median()
    model.save_pretrained(folder)
    entry = {"image_aesthetics_filter": {"min_score": 0.0}}
    assert list(operators_key([entry], profile)) == ["image_aesthetics_filter"]
    break_image(tmp_path, table["image"][3].as_py())
    built = build_operators([entry], profile)
    done = run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=None)
    assert [(row["id"], row["reason"]) for row in done.quarantine.to_pylist()] == [("row003", "decode_error")]
    assert done.kept.num_rows and done.rejects.num_rows and done.kept.num_rows + done.rejects.num_rows == COUNT - 1
    for row in done.kept.to_pylist():
        inputs = processor(images=Image.open(tmp_path / row["image"]).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits.item() / 10
        assert json.loads(row["stats"])["image_aesthetics_scores"] == pytest.approx(expected, abs=1e-6)


def test_text_similarity_equals_that_of_the_embeddings(tiny_models):
    import torch
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(tiny_models.clip), AutoTokenizer.from_pretrained(tiny_models.clip)
    (built,) = build_operators(
        [{"text_pair_similarity_filter": {"text_key_second": "other"}}], tiny_profile(tiny_models)
    )
    for texts in (["a red dog", "a cat"], ["two", "a blue square"]):
        with torch.no_grad():
            found = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
        sample = {"text": texts[0], "other": texts[1], "__dj__stats__": {}}
        stats = built.operator.compute_stats_single(sample)["__dj__stats__"]
        expected = torch.cosine_similarity(found[0], found[1], dim=0).item()
        assert next(iter(stats.values())) == pytest.approx([expected], abs=1e-6)
