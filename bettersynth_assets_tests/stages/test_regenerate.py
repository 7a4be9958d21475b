from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.errors import ConfigError, SeedError
from bettersynth_assets.images.opening import open_rgb
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.reports.gallery import gallery
from bettersynth_assets.stages.budget import BUDGETED_SET
from bettersynth_assets.stages.rules import conservation, schema
from bettersynth_assets.stages.world import prepare_seed
from bettersynth_assets_tests.helpers.seed_stages import STAGES
from tiny_models.synthesis import make_stable_diffusion
from toolkit.data.llava import read_llava

pytestmark = pytest.mark.slow

FEW = {"steps": 2, "tries": 2}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory, tiny_models):
    return make_stable_diffusion(tmp_path_factory.mktemp("diffusion") / "sd", tiny_models.clip)


@pytest.fixture
def regenerating(settings, diffusion):
    """A pipeline for a recipe's sections, up to budgeted_set."""

    def make(model=diffusion, *, is_prepared=True, **sections):
        recipe = Recipe.parse({"name": "test", "budget": {"exposures": 40}, **sections}, where="test")
        models = settings.profile.models.model_copy(update={"diffusion": str(model)})
        profile = settings.profile.model_copy(update={"models": models})
        run = ResolvedRun(replace(settings, profile=profile, recipe=recipe))
        if is_prepared:
            prepare_seed(run)
        return Pipeline((*STAGES, BUDGETED_SET), run, log=lambda line: None)

    return make


def all_rows(shards, table="kept"):
    return [row for shard in shards for row in shard.table(table).to_pylist()]


def ledger(shards):
    return [row for shard in shards for row in pq.read_table(shard.path / "regenerated.parquet").to_pylist()]


def file_bytes(run, rows):
    return {row["id"]: (run.run.image_root / row["image"]).read_bytes() for row in rows}


def test_badly_matched_rows_get_a_new_image_and_keep_id_and_caption(regenerating, seed_root, tiny_models):
    run = regenerating(regenerate={**FEW})
    shards = run.ensure_all("recaptioned_set")
    before = {row["id"]: row for row in all_rows(run.ensure_all("filtered_set"))}
    mean = run.ensure("seed_profile").stats["clip_score"]["mean"]
    rows = all_rows(shards)
    assert [row["id"] for row in rows] == list(before) and len(rows) == 30
    new = [row for row in rows if row["image"] != before[row["id"]]["image"]]
    assert {row["id"] for row in new} == {key for key, row in before.items() if row["clip_score"] < mean}
    assert 5 < len(new) < 25
    root = run.run.image_root
    for row in new:
        assert row["image"].startswith("regenerated/") and row["flags"] == ["regenerated"]
        assert (row["width"], row["height"], row["format"], row["mode"]) == (16, 16, "JPEG", "RGB")
        assert open_rgb(root / row["image"]).size == (16, 16)
        assert row["bytes"] == (root / row["image"]).stat().st_size
        assert row["caption"] == before[row["id"]]["caption"]
    paths = [root / row["image"] for row in new]
    expected = score_files(ClipScorer(str(tiny_models.clip)), paths, [row["caption"] for row in new]).scores
    np.testing.assert_allclose([row["clip_score"] for row in new], expected, atol=1e-5)
    assert {entry["id"]: entry["parent_image"] for entry in ledger(shards)} == {
        row["id"]: before[row["id"]]["image"] for row in new
    }
    old = [row for row in rows if row not in new]
    assert all(row["clip_score"] == before[row["id"]]["clip_score"] for row in old)
    assert not list(seed_root.rglob("*.jpg"))


def test_no_row_is_lost_and_both_checks_hold(regenerating):
    run = regenerating(regenerate={**FEW}, caption={"max_new_tokens": 6, "refilter": [{"clip_score_filter": {}}]})
    shards = run.ensure_all("recaptioned_set")
    assert [shard.lost for shard in shards] == [0, 0, 0] and 0 < sum(shard.kept for shard in shards) < 30
    mean = run.ensure("seed_profile").stats["clip_score"]["mean"]
    assert all(row["clip_score"] >= mean for row in all_rows(shards))
    upstream = {"filtered_set": run.current("filtered_set")}
    evidence = Evidence(manifests=shards, upstream=upstream, settings=run.settings, columns=RECAPTIONED)
    assert conservation(evidence).passed and schema(evidence).passed


def test_best_of_keeps_the_parent_image_unless_the_new_one_matches_better(regenerating):
    replaced = regenerating(regenerate={**FEW})
    all_new = {entry["id"]: entry for entry in ledger(replaced.ensure_all("recaptioned_set"))}
    run = regenerating(regenerate={**FEW, "policy": "best_of"})
    shards = run.ensure_all("recaptioned_set")
    outcomes = {entry["id"]: entry["outcome"] for entry in ledger(shards)}
    better = {key for key, entry in all_new.items() if entry["score_after"] > entry["score_before"]}
    assert {key for key, outcome in outcomes.items() if outcome == "replaced"} == better
    assert set(outcomes) == set(all_new) and 0 < len(better) < len(all_new)
    new = {row["id"] for row in all_rows(shards) if row["image"].startswith("regenerated/")}
    assert new == better


def test_the_same_recipe_gives_the_same_bytes_for_any_number_of_shards(regenerating, settings):
    run = regenerating(regenerate={**FEW})
    first = run.ensure_all("recaptioned_set")
    profile = run.settings.profile.model_copy(update={"shards": 1})
    other = replace(run.settings, profile=profile, data_root=settings.data_root / "other")
    whole = Pipeline(STAGES, ResolvedRun(other), log=lambda line: None)
    prepare_seed(whole.run)
    assert file_bytes(whole, all_rows(whole.ensure_all("recaptioned_set"))) == file_bytes(run, all_rows(first))
    seeded = regenerating(regenerate={**FEW, "seed": 7})
    expected = file_bytes(run, all_rows(first))  # read before the images of the other seed replace them
    found = file_bytes(seeded, all_rows(seeded.ensure_all("recaptioned_set")))
    assert sum(found[key] != data for key, data in expected.items()) > 5


def test_another_limit_generates_only_missing_images(regenerating, monkeypatch):
    run = regenerating(regenerate={**FEW})
    rows = all_rows(run.ensure_all("recaptioned_set"))
    lower = run.ensure("seed_profile").stats["clip_score"]["percentiles"]
    below = sorted(lower.values())[1]

    def no_maker(*_):
        raise AssertionError("images were made again")

    monkeypatch.setattr("bettersynth_assets.stages.run_models.load_image_maker", no_maker)
    fewer = regenerating(regenerate={**FEW, "below": below})
    kept = all_rows(fewer.ensure_all("recaptioned_set"))
    new = {row["id"]: row["image"] for row in kept if row["image"].startswith("regenerated/")}
    before = {row["id"]: row["image"] for row in rows if row["image"].startswith("regenerated/")}
    assert 0 < len(new) < len(before) and new.items() <= before.items()
    folder = run.run.image_root / "regenerated"
    assert {path.name for path in folder.glob("*/images/*.jpg")} == {name.rsplit("/")[-1] for name in new.values()}


def test_a_deleted_image_is_generated_again(regenerating):
    run = regenerating(regenerate={**FEW})
    rows = all_rows(run.ensure_all("recaptioned_set"))
    expected = file_bytes(run, rows)
    gone = next(row for row in rows if row["image"].startswith("regenerated/"))
    (run.run.image_root / gone["image"]).unlink()
    again = regenerating(regenerate={**FEW})
    assert file_bytes(again, all_rows(again.ensure_all("recaptioned_set"))) == expected
    assert [shard.stage for shard in again.materialized] == ["recaptioned_set"]


def test_rows_whose_generated_images_are_all_refused_keep_their_image_with_a_flag(regenerating, tmp_path, tiny_models):
    refusing = make_stable_diffusion(tmp_path / "refusing", tiny_models.clip, refuses_all=True)
    run = regenerating(refusing, regenerate={**FEW})
    shards = run.ensure_all("recaptioned_set")
    before = {row["id"]: row for row in all_rows(run.ensure_all("filtered_set"))}
    rows = all_rows(shards)
    asked = {entry["id"] for entry in ledger(shards)}
    assert {entry["outcome"] for entry in ledger(shards)} == {"refused"}
    assert {row["id"] for row in rows if row["flags"] == ["regeneration_refused"]} == asked and asked
    for row in rows:
        assert (row["image"], row["clip_score"]) == (before[row["id"]]["image"], before[row["id"]]["clip_score"])
    assert [shard.lost for shard in shards] == [0, 0, 0]


def test_training_export_and_gallery_find_both_kinds_of_images(regenerating):
    run = regenerating(regenerate={**FEW})
    done = run.ensure("budgeted_set")
    root = run.run.image_root
    samples = read_llava(done.path / "llava.json", root)
    assert len(samples) == 40
    kinds = {str(sample.image.relative_to(root)).split("/")[0] for sample in samples}
    assert kinds == {"regenerated", "images"}
    for sample in samples:
        assert open_rgb(sample.image).width >= 16
    lines = [json.loads(line) for line in (done.path / "processed_data.jsonl").read_text().splitlines()]
    assert [line["images"][0] for line in lines] == [str(sample.image.relative_to(root)) for sample in samples]
    shown = gallery(done.table(), image_root=root, opener=open_rgb)
    assert shown.count("data:image/jpeg") == 6 and "no image" not in shown


def test_select_compares_the_new_images_and_not_their_parents(regenerating):
    keep = {"clusters": 2, "count": 12}
    run = regenerating(regenerate={**FEW}, budget={"exposures": 20, "select": [{"kmeans_diversity_selector": keep}]})
    done = run.ensure("budgeted_set")
    assert done.kept == 12 and done.rejected == {"kmeans_diversity_selector": 18}
    assert any(row["image"].startswith("regenerated/") for row in done.table().to_pylist())


def test_the_image_root_links_to_the_seeds_images_and_is_the_seeds_folder_without_new_images(regenerating, seed_root):
    run = regenerating(is_prepared=False, regenerate={**FEW})
    root = run.run.image_root
    assert not root.exists()  # until a run begins
    prepare_seed(run.run)
    assert root.is_relative_to(run.settings.recipe_root) and root != seed_root
    assert sorted(path.name for path in root.iterdir()) == ["images", "regenerated", "seed.jsonl"]
    assert all(path.is_symlink() for path in root.iterdir())
    assert regenerating(baseline=True).run.image_root == seed_root
    assert sorted(path.name for path in seed_root.iterdir()) == ["images", "seed.jsonl"]
    (seed_root / "more").mkdir()
    prepare_seed(run.run)
    assert (root / "more").is_dir()
    shutil.rmtree(root)
    prepare_seed(run.run)
    assert (root / "images").is_dir()


def test_a_seed_with_a_folder_of_that_name_is_refused(regenerating, seed_root):
    (seed_root / "regenerated").mkdir()
    with pytest.raises(SeedError, match=r"seed/regenerated: the name is reserved for images"):
        regenerating(regenerate={**FEW})


def test_a_recipe_without_the_section_has_unchanged_keys(pipeline):
    run = pipeline(caption={"max_new_tokens": 6})
    run.ensure_all("recaptioned_set")
    assert all("regenerate" not in name for shard in run.materialized for name in (*shard.stats, *shard.files))
    with pytest.raises(ConfigError, match=r"has none: set models\.diffusion"):
        pipeline(caption={"max_new_tokens": 6}, regenerate={}).ensure_all("recaptioned_set")
