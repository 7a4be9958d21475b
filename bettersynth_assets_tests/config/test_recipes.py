"""Every recipe file of the project and of the user's folders is loaded, under a name of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipes import find_recipe, load_recipes
from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.errors import ConfigError

PROFILE = load_profile("miniature")
TEXT = "baseline: true\n"


def folder_with(root: Path, **files: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / f"{name}.yaml").write_text(text)
    return root


def names(*folders: Path, profile: object = PROFILE) -> list[str]:
    env = {"BETTERSYNTH_RECIPES": os.pathsep.join(map(str, folders))}
    return [recipe.name for recipe in load_recipes(profile, env)]  # type: ignore[arg-type]


def test_the_default_recipe_comes_first_and_then_all_others(tmp_path: Path) -> None:
    one, two = folder_with(tmp_path / "one", b=TEXT, a=TEXT), folder_with(tmp_path / "two", c="name: renamed\n" + TEXT)
    (one / "recipe.schema.json").write_text("{}")
    others = sorted({*shipped_files("recipes")} - {"third_place"})
    assert names(one, two) == ["third_place", *others, "a", "b", "renamed"]
    assert names() == ["third_place", *others]


def test_the_profile_names_the_default_recipe_by_name_or_path(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "own", mine=TEXT) / "mine.yaml"
    for default, folders in (("mine", [path.parent]), (str(path), []), (str(path), [path.parent])):
        profile = PROFILE.model_copy(update={"default_recipe": default})
        assert names(*folders, profile=profile)[0] == "mine"
        assert names(*folders, profile=profile).count("mine") == 1
    with pytest.raises(ConfigError, match="default_recipe = 'mime' not found: did you mean 'mine'"):
        names(path.parent, profile=PROFILE.model_copy(update={"default_recipe": "mime"}))


def test_settings_have_the_default_recipe_or_the_named_one(tmp_path: Path) -> None:
    env = {"BETTERSYNTH_RECIPES": str(folder_with(tmp_path, mine=TEXT)), "BETTERSYNTH_DATA": str(tmp_path)}
    assert load_settings(env).recipe.name == "third_place"
    mine = load_settings(env, recipe="mine")
    assert mine.recipe == load_settings(env, recipe=str(tmp_path / "mine.yaml")).recipe
    assert load_settings(env, recipe=mine.recipe) == mine
    with pytest.raises(ConfigError, match=r"recipe 'mime' not found: did you mean 'mine'\?"):
        find_recipe("mime", PROFILE, env)


def test_an_invalid_file_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bad\.yaml: unknown key 'proces': did you mean 'process'") as error:
        names(folder_with(tmp_path, bad="proces: []\n"))
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["third_place", "Third_Place", "third-place"])
def test_two_recipes_with_the_same_name_are_refused_with_both_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"are the same name in Dagster: set another `name`") as error:
        names(folder_with(tmp_path, copy=f"name: {name}\n{TEXT}"))
    assert str(tmp_path / "copy.yaml") in str(error.value)
    assert str(shipped_files("recipes")["third_place"]) in str(error.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BETTERSYNTH_RECIPES: '.*/nowhere' is not a folder"):
        names(tmp_path / "nowhere")


@pytest.mark.parametrize("load", [lambda env: load_recipes(PROFILE, env), load_settings])
def test_the_variable_of_earlier_versions_is_refused(load: object) -> None:
    with pytest.raises(ConfigError, match=r"BETTERSYNTH_RECIPE = 'clip_top_k' is not supported any more: .*then unset"):
        load({"BETTERSYNTH_RECIPE": "clip_top_k"})  # type: ignore[operator]
