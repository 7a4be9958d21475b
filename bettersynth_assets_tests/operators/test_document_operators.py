"""Data-Juicer's operators with models of their own, in a recipe, each with a small local model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.data_juicer import build_operators, operators_key
from bettersynth_assets.operators.process import run_process
from bettersynth_assets_tests.operators.rows import CAPTIONS, break_image, scored_table, tiny_profile
from bettersynth_assets_tests.operators.small_models import make_blip_itm

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


def test_matching_is_the_probability_that_the_model_gives(entries, tmp_path, tiny_models, blip_itm):
    import torch
    from PIL import Image
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    table = scored_table(tmp_path, 4)
    entry = {"image_text_matching_filter": {"hf_blip": str(blip_itm), "min_score": 0}}
    done = process(tmp_path, tiny_models, entry, table)
    model, processor = BlipForImageTextRetrieval.from_pretrained(blip_itm), AutoProcessor.from_pretrained(blip_itm)
    for row in done.kept.to_pylist():
        image = Image.open(tmp_path / row["image"]).convert("RGB")
        inputs = processor(text=row["caption"], images=image, return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            expected = model(**inputs).itm_score.softmax(-1)[0, 1].item()
        assert json.loads(row["stats"])["image_text_matching_score"] == pytest.approx(expected, abs=1e-5)


def test_a_model_folder_that_the_recipe_names_is_part_of_the_key(entries, tiny_models, blip_itm):
    profile = tiny_profile(tiny_models)
    before = operators_key([entries["matching"]], profile)
    assert list(before) == ["image_text_matching_filter.hf_blip"]
    extra = Path(blip_itm) / "notes.txt"
    extra.write_text("changed")
    assert operators_key([entries["matching"]], profile) != before
    extra.unlink()


@pytest.mark.parametrize("name", ["weights", "aesthetics-predictor-v3"])
def test_a_folder_name_that_the_aesthetics_filter_cannot_read_is_refused_before_any_row(name, tmp_path, tiny_models):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"hf_scorer_model = .*aesthetics-predictor-v1"):
        build_operators(
            [{"image_aesthetics_filter": {"hf_scorer_model": str(tmp_path / name)}}], tiny_profile(tiny_models)
        )


def test_the_aesthetics_filter_runs_where_its_package_is_installed(tmp_path, tiny_models):
    package = pytest.importorskip("aesthetics_predictor", reason="simple-aesthetics-predictor is no dependency")
    from transformers import CLIPProcessor, CLIPVisionConfig

    folder = tmp_path / "aesthetics-predictor-v2-linear"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = package.AestheticsPredictorV2Linear(
        CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=16)
    )
    model.save_pretrained(folder)
    CLIPProcessor.from_pretrained(tiny_models.clip).save_pretrained(folder)
    entry = {"image_aesthetics_filter": {"hf_scorer_model": str(folder), "min_score": -9}}
    done = process(tmp_path, tiny_models, entry, scored_table(tmp_path, 4))
    assert done.kept.num_rows == 4
    assert all(-9 < json.loads(text)["image_aesthetics_scores"] < 9 for text in done.kept["stats"].to_pylist())


@pytest.mark.parametrize(
    ("name", "package", "module"),
    [
        ("language_id_score_filter", "fasttext-predict", "fasttext"),
        ("perplexity_filter", "sentencepiece", "sentencepiece"),
        ("phrase_grounding_recall_filter", "nltk", "nltk"),
        ("text_action_filter", "spacy", "spacy"),
        ("text_entity_dependency_filter", "spacy", "spacy"),
    ],
)
def test_a_package_that_is_missing_is_named_before_any_row(name, package, module, tiny_models):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(ConfigError, match=package):
        build_operators([{name: {}}], tiny_profile(tiny_models))
