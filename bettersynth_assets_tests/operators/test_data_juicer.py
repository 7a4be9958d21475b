from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import ImageFile

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.data_juicer import check_operators
from bettersynth_assets.operators.limits import resolve_limits
from bettersynth_assets.operators.sandbox import operator_environment, registry
from bettersynth_assets_tests.helpers.operators import build_operators, operators_key
from bettersynth_assets_tests.helpers.rows import tiny_profile

SHIPPED = [
    {"words_num_filter": {"min_num": 4, "max_num": 24}},
    {"word_repetition_filter": {"rep_len": 10, "max_ratio": 0.3}},
    {"image_shape_filter": {"min_width": 335, "max_width": 769}},
    {"image_watermark_filter": {"prob_threshold": 0.8}},
    {"clip_score_filter": {"method": "mean"}},
]


def test_the_shipped_operators_are_accepted():
    check_operators(SHIPPED)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"word_num_filter": {}}, "'word_num_filter' is unknown to Data-Juicer: did you mean 'words_num_filter'"),
        ({"zzzzzz": {}}, "see Data-Juicer's list"),
        ({"words_num_filter": {"min_nun": 4}}, "unknown argument 'min_nun': did you mean 'min_num'"),
        (
            {"words_num_filter": {"min_num": "four"}},
            "words_num_filter: min_num = 'four': Input should be a valid integer",
        ),
        ({"words_num_filter": {"min_num": "4"}}, "min_num = '4'"),
        ({"word_repetition_filter": {"rep_len": 0}}, "rep_len = 0: Input should be greater than 0"),
        ({"words_num_filter": {"skip_op_error": True}}, "skip_op_error = True is refused"),
        ({"image_watermark_filter": {"trust_remote_code": True}}, "trust_remote_code = True is refused"),
        ({"naive_grouper": {}}, "turns its rows into other rows \\(kind: Grouper\\)"),
        ({"image_captioning_mapper": {}}, "use the recipe's `caption` section"),
        ({"clip_score_filter": {"method": "top-k"}}, "did you mean 'top_k'"),
        ({"clip_score_filter": {"method": "mean", "hf_clip": "x"}}, "'hf_clip' does not go with method mean"),
    ],
)
def test_an_operator_that_cannot_be_used_is_named_with_the_reason(entry, says):
    with pytest.raises(ConfigError, match=says):
        check_operators([entry])


def test_the_error_for_a_value_that_an_operator_refuses_names_the_operator(tiny_models):
    with pytest.raises(ConfigError, match=r"'image_shape_filter' with .*any_or_all.*is not supported"):
        build_operators([{"image_shape_filter": {"any_or_all": "some"}}], tiny_profile(tiny_models))


def test_models_omitted_from_the_recipe_come_from_the_profile(tiny_models):
    profile = tiny_profile(tiny_models)
    (built,) = build_operators([{"image_watermark_filter": None}], profile)
    assert built.operator.model_key.keywords["pretrained_model_name_or_path"] == str(tiny_models.watermark)
    assert built.limits == "{}", "the ledger records the recipe's values, not paths of this machine"
    assert built.operator.accelerator == "cpu" and built.rank is None
    assert list(operators_key([{"image_watermark_filter": None}], profile)) == ["image_watermark_filter"]
    assert operators_key([{"words_num_filter": None}], profile) == {}


@pytest.mark.parametrize(
    ("name", "role", "hub_id"),
    [
        ("image_nsfw_filter", "nsfw", "Falconsai/nsfw_image_detection"),
        ("image_text_matching_filter", "matching", "Salesforce/blip-itm-base-coco"),
    ],
)
def test_an_optional_model_is_data_juicers_default_unless_the_profile_names_one(name, role, hub_id, tiny_models):
    profile = tiny_profile(tiny_models)
    (built,) = build_operators([{name: {}}], profile)
    assert built.operator.model_key.keywords["pretrained_model_name_or_path"] == hub_id
    ways = operators_key([{name: {}}], profile)
    assert [*ways] == [f"{name}.way"] * (role == "matching")
    folder = str(tiny_models.watermark)
    profile = profile.model_copy(update={"models": profile.models.model_copy(update={role: folder})})
    (built,) = build_operators([{name: {}}], profile)
    assert built.operator.model_key.keywords["pretrained_model_name_or_path"] == folder
    assert list(operators_key([{name: {}}], profile)) == [*ways, name]


def test_a_model_that_does_not_exist_is_named_before_any_row_is_processed(tiny_models):
    profile = tiny_profile(tiny_models)
    gone = profile.model_copy(update={"models": profile.models.model_copy(update={"watermark": "./no-such-model"})})
    with pytest.raises(ConfigError, match=r"models\.watermark = './no-such-model'"):
        build_operators([{"image_watermark_filter": None}], gone)


def test_two_similarities_in_one_list_are_refused(tiny_models):
    entries = [{"image_text_similarity_filter": {"hf_clip": "org/other"}}, {"clip_score_filter": {"min_score": 0.1}}]
    with pytest.raises(ConfigError, match="one similarity per row"):
        build_operators(entries, tiny_profile(tiny_models))


def test_limits_are_resolved_to_plain_json_numbers():
    entries = [{"words_num_filter": {"min_num": 4}}, {"clip_score_filter": {"method": "top_k", "count": 2}}]
    resolved = resolve_limits(entries, [0.1, 0.3, 0.3, 0.3], ["a", "b", "d", "c"])
    expected = {"method": "top_k", "count": 2, "min_score": 0.3, "last_tied_id": "c"}
    assert resolved == [entries[0], {"clip_score_filter": expected}]
    assert json.loads(json.dumps(resolved)) == resolved


def test_installing_packages_at_run_time_is_refused():
    registry()
    from data_juicer.utils.lazy_loader import LazyLoader

    with pytest.raises(ConfigError, match="needs the package 'no-such-package-anywhere'"):
        LazyLoader.check_packages(["no-such-package-anywhere"])


def test_data_juicer_does_not_change_settings_of_the_process():
    threads = torch.get_num_threads()
    registry()
    with operator_environment():
        torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_gpu_operators_get_the_profiles_device(tiny_models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(sys.modules["data_juicer.ops.base_op"], "is_cuda_available", lambda: True)
    profile = tiny_profile(tiny_models, gpu=Gpu(devices=[3]))
    watermark, words = build_operators([{"image_watermark_filter": None}, {"words_num_filter": None}], profile)
    assert watermark.rank == 3 and words.rank is None
