"""The section ``curve`` of an experiment: its arms, its defaults, and errors that name the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bettersynth_assets.config.curve_arms import with_curve_arms
from bettersynth_assets.config.experiment import Experiment, recipes_of
from bettersynth_assets.config.experiments import load_experiments, with_arms
from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.config.schema import experiment_schema
from bettersynth_assets.config.settings import load_active_profile
from bettersynth_assets.errors import ConfigError

SMALL: dict[str, Any] = {"name": "mine", "curve": {"recipe": "clip_top_k"}, "decide": {"benchmarks": ["textvqa"]}}
PROFILE = load_active_profile({})


def parsed(**changes: Any) -> Experiment:
    return Experiment.parse({**SMALL, **changes}, where="mine.yaml")


def test_every_point_has_an_arm_of_the_recipe_and_one_of_random_rows() -> None:
    curve = {"recipe": "clip_top_k", "repeats": [1, 4], "fresh": [0.25, 0.125]}
    found = with_curve_arms(parsed(curve=curve), load_recipe, PROFILE)
    names = ["x1", "x4", "fresh_25", "fresh_12_5"]
    assert [*found.arms] == [prefix + name for name in names for prefix in ("", "random_")]
    assert {arm.draws for arm in found.arms.values()} == {4}, "every run draws its own rows"
    n = PROFILE.budget
    assert found.arms["x1"].set == {"budget.exposures": n}
    assert found.arms["x4"].set == {"budget.rows": n // 4, "budget.exposures": n}
    assert found.arms["fresh_25"].set == {"budget.exposures": n // 4}
    recipes = recipes_of(found, load_recipe)
    assert recipes["x4"].process == load_recipe("clip_top_k").process and not recipes["random_x4"].process
    assert recipes["x4"].budget == recipes["random_x4"].budget


def test_a_recipes_own_number_of_exposures_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("caption: {}\nbudget: {exposures: 100}\n")
    found = with_curve_arms(parsed(curve={"recipe": str(path)}), load_recipe, PROFILE)
    assert found.arms["random_x2"].set == {"budget.rows": 50, "budget.exposures": 100}


def test_a_curve_takes_one_look_and_compares_with_the_baseline_unless_the_file_says_otherwise() -> None:
    assert parsed().seeds.counts() == (4,) and parsed().decide.pairs == "baseline"
    assert parsed(seeds={"start": 6, "max": 6}).seeds.counts() == (6,)
    assert parsed(decide={"benchmarks": ["a"], "pairs": "all"}).decide.pairs == "all"
    assert with_curve_arms(parsed(curve=None, arms={"a": {}}), load_recipe, PROFILE).arms.keys() == {"a"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {"a": {}}}, "give either `arms` or a `curve`"),
        ({"curve": None}, "give either `arms` or a `curve`"),
        ({"seeds": {"start": 4, "max": 8}}, r"same seeds: set seeds\.start = seeds\.max"),
        ({"curve": {"recipe": "a", "repeats": [2, 2]}}, r"curve\.repeats = \[2, 2\]: 2 is listed twice"),
        ({"curve": {"recipe": "a", "repeats": [0]}}, r"curve\.repeats.* = 0: Input should be greater than"),
        ({"curve": {"recipe": "a", "fresh": [1.0]}}, r"curve\.fresh.* = 1\.0: Input should be less than 1"),
        ({"curve": {"recipe": "a", "repeat": [2]}}, r"unknown key 'curve\.repeat': did you mean 'repeats'"),
    ],
)
def test_errors_name_the_key_and_the_fix(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"curve": {"recipe": "clip_topk"}}, r"experiment mine: curve\.recipe: recipe 'clip_topk' not found: did you"),
        (
            {"curve": {"recipe": "baseline_random"}},
            "recipe baseline_random is random rows, with which a curve compares",
        ),
        ({"baseline": {"recipe": "third_place"}}, "random rows, which third_place is not: leave `baseline.recipe` out"),
        ({"curve": {"recipe": "clip_top_k", "repeats": [1, 4001]}}, "4001 leaves no row: give numbers from 1 to 4000"),
    ],
)
def test_a_curve_that_cannot_be_compared_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_curve_arms(parsed(**changes), load_recipe, PROFILE)


def test_the_arms_of_a_curve_in_a_folder_add_no_assets_of_recipes(tmp_path: Path) -> None:
    (tmp_path / "repetition.yaml").write_text("curve: {recipe: clip_top_k}\ndecide: {benchmarks: [textvqa]}\n")
    recipes = load_recipes(PROFILE, {})
    found = load_experiments(PROFILE, recipes, {"BETTERSYNTH_EXPERIMENTS": str(tmp_path)})
    assert found[-1].experiment.name == "repetition" and "random_x16" in found[-1].experiment.arms
    names = [recipe.name for recipe in with_arms(recipes, found)]
    assert not [name for name in names if name.startswith("repetition.")]


def test_the_schema_wants_arms_or_a_curve() -> None:
    check = jsonschema.Draft202012Validator(experiment_schema()).is_valid
    decide = {"decide": {"benchmarks": ["textvqa"]}}
    assert check({"curve": {"recipe": "a"}, **decide}) and check({"arms": {"a": {}}, **decide})
    assert not check(decide) and not check({"arms": {"a": {}}, "curve": {"recipe": "a"}, **decide})
    assert not check({"curve": {"recipe": "a", "repeats": [0]}, **decide})
