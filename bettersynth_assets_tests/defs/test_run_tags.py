"""Runs are tagged with recipe, profile and seed file, and a history never mixes two profiles or seed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from bettersynth_assets_tests.helpers.run_results import failure


def tags_of(instance, result) -> dict[str, str]:
    tags = instance.get_run_by_id(result.run_id).tags
    return {name: value for name, value in tags.items() if name.startswith("bettersynth/")}


@pytest.mark.slow
def test_a_run_has_the_tags_of_its_recipes_profile_and_seed_file(materialize, instance, data_root: Path) -> None:
    own = {"bettersynth/profile": "tiny", "bettersynth/seed_file": str(data_root / "seed.jsonl")}
    assert tags_of(instance, materialize("rows")) == own
    assert tags_of(instance, materialize("rows", "copies")) == own | {"bettersynth/recipe": "third_place"}
    both = materialize("rows", "copies", "clip_top_k/copies")
    assert tags_of(instance, both) == own | {"bettersynth/recipe": "third_place, clip_top_k"}


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["BETTERSYNTH_SEED", "BETTERSYNTH_PROFILE"])
def test_a_history_of_another_profile_or_seed_file_is_refused_with_the_fix(
    variable: str, materialize, instance, data_root: Path, monkeypatch
) -> None:
    assert materialize("rows").success
    other = data_root / ("other.jsonl" if variable == "BETTERSYNTH_SEED" else "other.yaml")
    other.write_text("" if variable == "BETTERSYNTH_SEED" else (data_root / "tiny.yaml").read_text())
    with monkeypatch.context() as changed:
        changed.setenv(variable, str(other))
        result = materialize("rows")
        words = failure(result, "rows")
        assert words.startswith("this Dagster history has runs of ") and "Unset DAGSTER_HOME" in words
        assert ("seed file" if variable == "BETTERSYNTH_SEED" else "profile 'tiny'") in words
        assert tags_of(instance, result) == {}
        assert not materialize("rows").success
    assert materialize("rows").success
