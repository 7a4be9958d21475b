"""Each recipe has its own assets; what no recipe changes, and each budget's baseline, exists once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import BudgetSection, Recipe
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.config.settings import load_active_profile, load_settings
from bettersynth_assets.definitions import build_definitions
from bettersynth_assets.defs.cards import CARDS
from bettersynth_assets.defs.partitions import all_shards
from bettersynth_assets.defs.recipe_assets import check_names, name_assets, recipes_of
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers import fake_graph
from bettersynth_assets_tests.helpers.run_results import SHARDS, partitions_of

PROFILE = load_profile("miniature")
HALF = PROFILE.budget // 2
OWN = {stage.name for stage in STAGES if stage.scope == "recipe"}
BASELINE = {stage.name for stage in STAGES if stage.scope == "budget"}


def recipe(name: str, exposures: int | None = None) -> Recipe:
    return Recipe(name=name, baseline=True, budget=BudgetSection(exposures=exposures))


RECIPES = (recipe("third_place"), recipe("clip_top_k"), recipe("my-half", HALF), recipe("other_half", HALF))


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(STAGES, PROFILE, RECIPES)


@pytest.fixture(scope="module")
def graph(definitions: dg.Definitions) -> dg.AssetGraph:  # type: ignore[name-defined]
    return definitions.resolve_asset_graph()


def selected(graph: object, text: str) -> set[str]:
    found = dg.AssetSelection.from_coercible([text]).resolve(graph)  # type: ignore[arg-type]
    return {key.to_user_string() for key in found}


def test_shared_sets_exist_once_and_each_recipe_has_its_own(graph: object) -> None:
    plain = {stage.name for stage in STAGES}
    prefixed = {f"{name}/{stage}" for name in ("clip_top_k", "my-half", "other_half") for stage in OWN}
    assert selected(graph, "*") == plain | prefixed | {f"budget_{HALF}/{stage}" for stage in BASELINE}


def test_a_plain_name_selects_only_the_default_recipe_and_a_prefixed_one_only_its_own(graph: object) -> None:
    after = {"recaptioned_set", "budgeted_set", "mgm_checkpoint", "eval_results"}
    assert selected(graph, "recaptioned_set+") == after
    assert selected(graph, 'key:"clip_top_k/recaptioned_set"+') == {f"clip_top_k/{name}" for name in after}
    assert selected(graph, "group:my_half") == {f"my-half/{name}" for name in OWN}


def test_a_recipe_with_another_budget_is_compared_with_a_baseline_of_that_budget(graph) -> None:
    def inputs(key: str) -> set[str]:
        return {parent.to_user_string() for parent in graph.get(dg.AssetKey.from_user_string(key)).parent_keys}

    assert "baseline_results" in inputs("eval_results") & inputs("clip_top_k/eval_results")
    for name in ("my-half", "other_half"):
        assert f"budget_{HALF}/baseline_results" in inputs(f"{name}/eval_results")
        assert "baseline_results" not in inputs(f"{name}/eval_results")
    assert inputs(f"budget_{HALF}/baseline_set") == {"seed_dataset"}
    assert graph.get(dg.AssetKey([f"budget_{HALF}", "baseline_set"])).group_name == "baseline"


def test_the_job_of_a_recipe_builds_its_sets_and_no_other_recipes(definitions: dg.Definitions) -> None:
    def keys(job: str) -> set[str]:
        return {key.to_user_string() for key in definitions.resolve_job_def(job).asset_layer.executable_asset_keys}

    shared = {stage.name for stage in STAGES} - OWN - BASELINE
    assert keys("third_place") == shared | OWN | BASELINE
    assert keys("clip_top_k") == shared | BASELINE | {f"clip_top_k/{name}" for name in OWN}
    own = {f"my-half/{name}" for name in OWN}
    assert keys("my_half") == shared | own | {f"budget_{HALF}/{name}" for name in BASELINE}


@pytest.mark.parametrize("name", ["seed", "training", "baseline", "filtered_set", "budget_2000", "experiment_mine"])
def test_the_name_of_a_set_or_a_group_is_refused_for_a_recipe(name: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe name '{name}' is the name of a set or a group"):
        check_names([recipe(name)], STAGES, {card.group for card in CARDS})


def test_the_recipes_of_a_run_are_those_that_have_sets_of_their_own_in_it() -> None:
    named = name_assets(RECIPES, PROFILE)
    keys = {dg.AssetKey("clip_scores"), dg.AssetKey("baseline_set"), dg.AssetKey(["my-half", "filtered_set"])}
    assert [found.name for found in recipes_of(keys, named, STAGES)] == ["my-half"]
    assert recipes_of({dg.AssetKey("clip_scores")}, named, STAGES) == []


def shown(instance: dg.DagsterInstance, key: str) -> dict[str, object]:
    event = instance.get_latest_materialization_event(dg.AssetKey.from_user_string(key))
    assert event is not None and event.asset_materialization is not None, key
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.mark.slow
def test_one_run_builds_several_recipes_and_mixes_none(materialize, instance, data_root: Path) -> None:
    result = materialize("rows", "copies", "clip_top_k/copies", "clip_top_k/total")
    assert result.success
    for key in ("rows", "copies", "clip_top_k/copies"):
        assert partitions_of(instance, key) == SHARDS
    for name, key in (("third_place", "copies"), ("clip_top_k", "clip_top_k/copies")):
        assert list(shown(instance, key).items())[:3] == [
            ("recipe", name), ("profile", "tiny"), ("seed_file", str(data_root / "seed.jsonl")),
        ]  # fmt: skip
        assert Path(str(shown(instance, key)["path"])).is_relative_to(data_root / "tiny" / name / "copies")
    assert "recipe" not in shown(instance, "rows")
    assert instance.get_latest_materialization_event(dg.AssetKey("total")) is None
    checked = {check.asset_key.to_user_string() for check in result.get_asset_check_evaluations()}
    assert checked == {"rows", "copies", "clip_top_k/copies"}


@pytest.mark.slow
def test_a_set_that_is_built_as_a_dependency_is_reported_for_its_own_recipe(materialize, instance) -> None:
    result = materialize("clip_top_k/total")
    assert result.success
    assert partitions_of(instance, "clip_top_k/copies") == SHARDS
    assert partitions_of(instance, "rows") == SHARDS
    assert partitions_of(instance, "copies") == []
    assert {check.asset_key.to_user_string() for check in result.get_asset_check_evaluations()} >= {"clip_top_k/copies"}


@pytest.mark.slow
def test_baselines_of_two_budgets_are_stored_and_reported_apart(data_root: Path, instance) -> None:
    total = next(stage for stage in fake_graph.STAGES if stage.name == "total")
    drawn = replace(total, name="drawn", inputs=("rows",), scope="budget", run=_count_rows)
    card = replace(fake_graph.CARDS[-1], name="drawn", also_after=())
    profile = load_active_profile()
    recipes = (recipe("plain"), recipe("half", 3))
    stages = (*fake_graph.STAGES, drawn)
    definitions = build_definitions(stages, profile, recipes, (*fake_graph.CARDS, card))
    keys = [dg.AssetKey("rows"), dg.AssetKey("drawn"), dg.AssetKey(["budget_3", "drawn"])]
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance, tags=all_shards(profile), asset_selection=keys).success
    for key, budget in (("drawn", 7), ("budget_3/drawn", 3)):
        assert (shown(instance, key)["budget"], shown(instance, key)["draw_seed"]) == (budget, 1024)
        folder = data_root / "tiny" / "shared" / f"budget_{budget}_draw_1024" / "drawn" / "all"
        assert Path(str(shown(instance, key)["path"])).parent == folder
    settings = replace(load_settings(recipe=recipes[0]), draw_seed=2)
    assert Pipeline(stages, ResolvedRun(settings)).slot("drawn", "all").root.name == "budget_7_draw_2"


def _count_rows(work):
    return fake_graph._total(replace(work, inputs={"copies": work.inputs["rows"]}))


def test_the_shipped_recipes_have_names_that_dagster_accepts() -> None:
    recipes = load_recipes(PROFILE, {})
    check_names(recipes, STAGES, {card.group for card in CARDS})
    assert [assets.job for assets in name_assets(recipes, PROFILE)] == [found.name for found in recipes]
