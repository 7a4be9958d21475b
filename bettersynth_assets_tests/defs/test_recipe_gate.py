"""An unusable recipe is refused before the first stage runs, regardless of the selected asset."""

from __future__ import annotations

import pytest
import yaml

from bettersynth_assets.defs import recipe_gate
from bettersynth_assets.defs.recipe_gate import TAG


@pytest.fixture
def recipe(data_root, monkeypatch):
    def write(**sections):
        path = data_root / "own.yaml"
        path.write_text(yaml.safe_dump({"baseline": True, **sections}))
        monkeypatch.setenv("BETTERSYNTH_RECIPE", str(path))

    return write


@pytest.mark.parametrize("selected", ["rows", "copies", "total"])
def test_a_refused_recipe_stops_every_selection_and_creates_no_folder(selected, recipe, materialize, data_root):
    recipe(budget={"select": [{"python_lambda_mapper": {"lambda_str": "lambda row: row"}}]})
    before = sorted(path.name for path in data_root.rglob("*"))
    result = materialize(selected)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    words = event.event_specific_data.user_failure_data.description
    assert words.startswith("operator 'python_lambda_mapper' runs code of the recipe: remove it, or set `trusted")
    assert sorted(path.name for path in data_root.rglob("*")) == before


def test_a_recipe_is_checked_once_per_run_and_its_warnings_are_logged(recipe, materialize, instance, monkeypatch):
    recipe(process=[{"text_length_filter": {"min_len": 1}}])
    asked, check = [], recipe_gate.check_recipe

    def counted(settings):
        asked.append(settings.recipe.name)
        return [*check(settings), "operator 'x' comes from a plugin"]

    monkeypatch.setattr(recipe_gate, "check_recipe", counted)
    first = materialize()
    assert first.success and asked == ["own"]
    assert instance.get_run_by_id(first.run_id).tags[TAG]
    assert materialize().success and asked == ["own", "own"]
