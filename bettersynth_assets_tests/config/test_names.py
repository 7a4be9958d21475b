"""Names that become folders in the data root."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.names import check_name
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.errors import ConfigError

BAD_NAMES = [
    "../../../escaped", "/tmp/x", "a/b", "a\\b", "", ".", "..", ".hidden", "-rf", "a b", "a\nb", "ü", "a\0b", "x" * 101,
    "shared", "Shared", "all", "current", "features", "miniature-world", "batch_sizes.json",
    "a.partial", "$(touch x)", "a;b", "~", "%2e%2e",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["recipe", "profile", "arm"])
def test_names_that_escape_or_collide_are_refused(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{kind} name "):
        check_name(kind, name)


@pytest.mark.parametrize("name", ["third_place", "mgm-2b", "v1.5", "_x", "A", "3", "x" * 100, "a..b"])
def test_plain_names_are_accepted(name: str) -> None:
    assert check_name("recipe", name) == name


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if name.isprintable()])
def test_a_recipe_and_a_profile_are_refused_by_file_and_name(name: str, tmp_path: Path) -> None:
    recipe, profile = tmp_path / "r.yaml", tmp_path / "p.yaml"
    recipe.write_text(f"name: '{name}'\nbaseline: true\n")
    profile.write_text(f"name: '{name}'\nextends: miniature\n")
    with pytest.raises(ConfigError, match=r"r\.yaml: recipe name .*; set `name` in the file"):
        load_recipe(str(recipe))
    with pytest.raises(ConfigError, match=r"p\.yaml: profile name .*; set `name` in the file"):
        load_profile(str(profile))


@pytest.mark.parametrize("value", ["5", "null", "[a]", "true"])
def test_a_name_that_is_not_text_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"name: {value}\nbaseline: true\n")
    with pytest.raises(ConfigError, match="is not a string: put it in quotes"):
        load_recipe(str(tmp_path / "r.yaml"))


def test_the_file_name_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "my recipe.yaml").write_text("baseline: true\n")
    with pytest.raises(ConfigError, match="recipe name 'my recipe': use letters"):
        load_recipe(str(tmp_path / "my recipe.yaml"))
    (tmp_path / "shared.yaml").write_text("baseline: true\nname: mine\n")
    assert load_recipe(str(tmp_path / "shared.yaml")).name == "mine"


@pytest.mark.parametrize("name", ["../recipes/third_place", "third_place.yaml/", "x/../third_place", ""])
def test_a_shipped_recipe_is_found_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match="not found"):
        load_recipe(name)


def test_nothing_is_written_for_a_refused_name(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: ../../escaped\nbaseline: true\n")
    with pytest.raises(ConfigError, match=r"\.\./\.\./escaped"):
        load_settings({"BETTERSYNTH_DATA": str(tmp_path / "data")}, recipe=str(recipe))
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_shipped_names_are_accepted(tmp_path: Path) -> None:
    for kind in ("recipe", "profile"):
        paths = [*(PROJECT_ROOT / f"{kind}s").glob("*.yaml")]
        assert len(paths) > 1
        for path in paths:
            assert check_name(kind, path.stem) == path.stem
