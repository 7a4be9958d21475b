"""An unusable recipe is refused before the first stage runs, for any selection of its assets."""

from __future__ import annotations

import pytest
import yaml

from bettersynth_assets.defs import recipe_gate
from bettersynth_assets.defs.recipe_gate import TAG
from bettersynth_assets_tests.helpers.run_results import SHARDS, failure, partitions_of

LAMBDA = {"select": [{"python_lambda_mapper": {"lambda_str": "lambda row: row"}}]}


@pytest.fixture
def recipe(data_root, monkeypatch):
    """Function that writes the recipe ``own``, whose assets are ``own/copies`` and ``own/total``."""
    (data_root / "recipes").mkdir()
    monkeypatch.setenv("BETTERSYNTH_RECIPES", str(data_root / "recipes"))

    def write(**sections):
        (data_root / "recipes" / "own.yaml").write_text(yaml.safe_dump({"baseline": True, **sections}))

    return write


@pytest.mark.slow
@pytest.mark.parametrize("selected", [["own/copies"], ["own/total"], ["rows", "own/copies"]])
def test_a_refused_recipe_stops_every_selection_and_creates_no_folder(selected, recipe, materialize, data_root):
    recipe(budget=LAMBDA)
    before = sorted(path.name for path in data_root.rglob("*"))
    result = materialize(*selected)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    words = event.event_specific_data.user_failure_data.description
    assert words.startswith("operator 'python_lambda_mapper' runs code of the recipe: remove it, or set `trusted")
    assert sorted(path.name for path in data_root.rglob("*")) == before


@pytest.mark.slow
def test_a_refused_recipe_stops_only_its_own_assets(recipe, materialize, instance, data_root):
    recipe(budget=LAMBDA)
    result = materialize("rows", "copies", "own/copies")
    assert failure(result, "own__copies").startswith("operator 'python_lambda_mapper' runs code")
    assert partitions_of(instance, "rows") == partitions_of(instance, "copies") == SHARDS
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert sum(line.startswith("nothing of recipe 'own' is built, the others are: operator") for line in logged) == 1
    assert not (data_root / "tiny" / "own").exists()
    assert materialize("rows", "copies").success


@pytest.mark.slow
def test_a_recipe_is_checked_once_per_run_and_its_warnings_are_logged(recipe, materialize, instance, monkeypatch):
    recipe(process=[{"text_length_filter": {"min_len": 1}}])
    asked, check = [], recipe_gate.check_recipe

    def counted(settings):
        asked.append(settings.recipe.name)
        return [*check(settings), "operator 'x' comes from a plugin"]

    monkeypatch.setattr(recipe_gate, "check_recipe", counted)
    names = ("rows", "copies", "own/copies", "own/total")
    first = materialize(*names)
    assert first.success and asked == ["third_place", "own"]
    assert instance.get_run_by_id(first.run_id).tags[TAG]
    assert materialize(*names).success and asked == ["third_place", "own"] * 2
