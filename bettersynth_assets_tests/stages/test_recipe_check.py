"""An unusable recipe is refused before the first stage and leaves no files."""

from __future__ import annotations

import pytest

from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import Recipe, load_recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners.captioner_kind import captioner_kind
from bettersynth_assets.operators import stock
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.recipe_lists import check_operators
from bettersynth_assets.stages import recipe_check
from bettersynth_assets.stages.recipe_check import check_recipe, operator_lists
from bettersynth_assets_tests.helpers.operators import operators_key
from bettersynth_assets_tests.helpers.rows import tiny_profile

SHIPPED = {  # recipe: profiles that it can be used with
    "llava_recaption": {"mgm-2b-llava", "mgm-2b-llava-vllm"},
    "regenerate_worst": {"llava-0.5b", "mgm-2b", "mgm-2b-llava", "mgm-2b-llava-vllm"},
}


def settings_of(profile, tmp_path, **sections):
    values = {"name": "test", "baseline": "caption" not in sections and "regenerate" not in sections, **sections}
    return Settings(profile=profile, recipe=Recipe.parse(values, where="test"), data_root=tmp_path / "data")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", shipped_files("recipes"))
@pytest.mark.parametrize("profile", shipped_files("profiles"))
def test_a_shipped_recipe_is_accepted_only_if_the_profile_has_what_it_needs(recipe, profile, tmp_path):
    settings = Settings(profile=load_profile(profile), recipe=load_recipe(recipe), data_root=tmp_path / "data")
    if profile in SHIPPED.get(recipe, shipped_files("profiles")):
        assert check_recipe(ResolvedRun(settings)) == []
    else:
        with pytest.raises(ConfigError, match=r"captioner: llava|needs a text-to-image pipeline, but profile '"):
            check_recipe(ResolvedRun(settings))
    assert not (tmp_path / "data").exists()


def test_shipped_recipes_are_checked_without_data_juicer_which_also_accepts_them(tmp_path, monkeypatch):
    for name in shipped_files("recipes"):
        for entries in operator_lists(load_recipe(name)).values():
            check_operators(entries)
    monkeypatch.setattr(
        recipe_check, "check_operators", lambda *arguments, **more: pytest.fail("looked at Data-Juicer")
    )
    settings = Settings(profile=load_profile("miniature"), recipe=load_recipe("third_place"), data_root=tmp_path)
    check_recipe(ResolvedRun(settings))


@pytest.mark.parametrize("name", [spec.name for spec in stock.SPECS if spec.known_values])
def test_plain_arguments_are_valid_for_data_juicer_and_no_others_are_plain(name, tiny_models):
    value, known = 1, spec_of(name).known_values
    check_operators([{name: dict.fromkeys(known, value)}])
    models = OperatorModels(tiny_profile(tiny_models).models)
    assert recipe_check._is_plain({name: dict.fromkeys(known, value)}, models)
    for wrong in ("1", None, True, [1]):
        assert not recipe_check._is_plain({name: dict.fromkeys(known, wrong)}, models)
    assert not recipe_check._is_plain({name: {"other": 1}}, models)


@pytest.mark.slow
def test_the_error_names_the_profiles_that_have_the_captioner(tmp_path, tiny_models):
    profile = tiny_profile(tiny_models)
    with pytest.raises(ConfigError) as error:
        check_recipe(ResolvedRun(settings_of(profile, tmp_path, caption={"captioner": "llava"})))
    assert str(error.value) == (
        "recipe 'test' needs `captioner: llava`, but models.captioner of profile 'miniature' is a blip-2: set "
        "BETTERSYNTH_PROFILE to mgm-2b-llava or mgm-2b-llava-vllm, or remove `captioner` from the recipe"
    )
    assert check_recipe(ResolvedRun(settings_of(profile, tmp_path, caption={"captioner": "blip-2"}))) == []
    assert captioner_kind("http://127.0.0.1:8000/v1#some-model") is None
    with pytest.raises(ConfigError, match=r"caption\.captioner = 'lava'"):
        settings_of(profile, tmp_path, caption={"captioner": "lava"})


def test_keys_do_not_contain_the_kind_of_captioner(tmp_path):
    plain, named = (load_recipe("third_place").caption, load_recipe("llava_recaption").caption)
    assert named.captioner == "llava"
    for section in (plain, named):
        assert section.key() == section.model_copy(update={"captioner": None}).key()
        assert "captioner" not in section.key()


@pytest.mark.parametrize(
    ("models", "sections", "says"),
    [
        ({"captioner": "./none"}, {"caption": {}}, r"models\.captioner = './none'"),
        ({"watermark": "./none"}, {"process": [{"image_watermark_filter": {}}]}, r"models\.watermark = './none'"),
        ({"diffusion": "./none"}, {"regenerate": {}}, r"models\.diffusion = './none'"),
        ({}, {"regenerate": {}}, r"needs a text-to-image pipeline, but profile 'miniature' has none: set models\."),
        ({}, {"caption": {"refilter": [{"stopwords_filter": {}}]}}, r"'stopwords_filter' needs models\.words"),
        ({}, {"budget": {"select": [{"clean_links_mapper": {}}]}}, r"in budget\.select is a Mapper"),
        ({}, {"process": [{"document_deduplicator": {}}]}, r"needs all rows"),
        ({}, {"caption": {"refilter": [{"python_lambda_mapper": {}}]}}, r"runs code of the recipe"),
        ({}, {"budget": {"select": [{"image_deduplicator": {}}]}}, r"operator 'image_deduplicator' needs the package"),
    ],
)  # fmt: skip
def test_a_fault_in_a_later_list_is_found_before_the_first_stage(models, sections, says, tmp_path, tiny_models):
    profile = tiny_profile(tiny_models)
    profile = profile.model_copy(update={"models": profile.models.model_copy(update=models)})
    with pytest.raises(ConfigError, match=says):
        check_recipe(ResolvedRun(settings_of(profile, tmp_path, **sections)))
    assert not (tmp_path / "data").exists()


def test_keys_do_not_contain_trust(tiny_models):
    entries = [{"words_num_filter": {}}, {"image_watermark_filter": {}}]
    plain, trusted = tiny_profile(tiny_models), tiny_profile(tiny_models, trusted_code=True)
    assert operators_key(entries, plain) == operators_key(entries, trusted)
