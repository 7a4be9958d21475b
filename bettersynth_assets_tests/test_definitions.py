"""The code location loads without warnings or model libraries and equals the graph in the README."""

import subprocess
import sys

import dagster as dg
import pytest

from bettersynth_assets.config.model import PROJECT_ROOT, shipped_files
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipes import load_recipes
from bettersynth_assets.definitions import build_definitions, defs
from bettersynth_assets.defs.cards import CARDS
from bettersynth_assets.stages.graph import STAGES

HEAVY = ("torch", "torchvision", "transformers", "data_juicer", "open_clip", "timm", "ray", "matplotlib", "deepspeed")
SHARDED = {"seed_dataset", "clip_scores", "filtered_set", "recaptioned_set"}


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey(name)


@pytest.mark.slow
def test_loading_imports_no_model_library_and_gives_no_warning():
    code = "import sys, bettersynth_assets.definitions; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(HEAVY) & set(done.stdout.split()) == set()
    assert done.stderr == ""


def test_the_definitions_are_valid():
    dg.Definitions.validate_loadable(defs)


def test_there_is_a_card_for_each_stage_and_a_stage_for_each_card():
    assert [stage.name for stage in STAGES] == [card.name for card in CARDS]


def test_every_asset_documents_its_rows_and_its_owner(graph):
    for name in (card.name for card in CARDS):
        node = graph.get(key(name))
        assert node.description.startswith("One row is ")
        assert len(node.description.partition(". ")[0]) <= 100, "`dg list defs` truncates longer descriptions"
        assert node.owners
        assert node.kinds
        assert node.group_name in {"seed", "data", "training", "baseline"}
        assert node.code_version
        assert node.backfill_policy == dg.BackfillPolicy.single_run()
        assert (node.partitions_def is not None) == (name in SHARDED)


def test_sets_of_rows_show_their_columns(graph):
    shown = graph.get(key("recaptioned_set")).metadata["dagster/column_schema"]
    assert {"original_caption", "synthetic_caption", "choice"} <= {column.name for column in shown.columns}


def test_the_partition_bar_has_the_profiles_shards(graph):
    profile_shards = graph.get(key("clip_scores")).partitions_def.get_partition_keys()
    assert profile_shards == [f"shard-0000{index}" for index in range(4)]


def test_one_hop_downstream_of_the_captions_are_all_sets_that_depend_on_them(graph):
    selection = dg.AssetSelection.from_coercible(["recaptioned_set+"]).resolve(graph)
    assert {found.to_user_string() for found in selection} == {
        "recaptioned_set", "budgeted_set", "mgm_checkpoint", "eval_results",
    }  # fmt: skip


def test_every_shipped_recipe_has_a_group_of_assets_and_a_job(graph):
    others = {*shipped_files("recipes")} - {"third_place"}
    own = [stage.name for stage in STAGES if stage.scope == "recipe"]
    for recipe in others:
        keys = {dg.AssetKey([recipe, name]) for name in own}
        assert {node.key for node in graph.asset_nodes if node.group_name == recipe} == keys
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    assert jobs >= {"third_place", *others}
    assert jobs - {"third_place", *others, "__ASSET_JOB"} == {
        *(f"experiment_{name}" for name in shipped_files("experiments")), "which_filter_half"
    }  # fmt: skip


def test_assets_that_use_models_are_in_the_gpu_pool(graph):
    pools = {card.name: graph.get(key(card.name)).pools for card in CARDS}
    assert pools == {card.name: {"gpu"} if card.uses_models else set() for card in CARDS}


def test_every_check_that_protects_rows_is_blocking(graph):
    row_sets = [stage.name for stage in STAGES if stage.columns is not None]
    assert len(row_sets) == 6
    for name in row_sets:
        for check in ("rows_conserved", "quarantine_share"):
            assert graph.get_check_spec(dg.AssetCheckKey(key(name), check)).blocking


def test_the_number_of_shards_depends_on_the_profile():
    profile = load_profile("mgm-2b")
    other = build_definitions(STAGES, profile, load_recipes(profile, {})).resolve_asset_graph()
    assert len(other.get(key("clip_scores")).partitions_def.get_partition_keys()) == profile.shards


def test_steps_that_use_models_wait_for_each_other_by_their_tag_before_they_ask_for_the_pool():
    steps = [asset.op for asset in defs.assets or () if isinstance(asset, dg.AssetsDefinition)]
    tagged = {step.name for step in steps if step.tags.get("bettersynth/uses_models") == "true"}
    assert {"clip_scores", "mgm_checkpoint", "eval_results"} <= tagged
    assert tagged == {step.name for step in steps if step.pools}
