"""budget.select: dataset operators see the whole set, regardless of the number of shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import ConfigError, EmptySetError
from bettersynth_assets.stages.budget import BUDGETED_SET
from bettersynth_assets.stages.rules import budget_met, conservation
from bettersynth_assets.stages.score import embeddings_of, read_embeddings
from bettersynth_assets_tests.helpers.rows import break_image
from bettersynth_assets_tests.helpers.seed_stages import ROWS, STAGES
from toolkit.file_errors import EnvironmentFault

pytestmark = pytest.mark.slow

IMAGES = {"image_near_duplicate_deduplicator": {"max_distance": 4}}
CLUSTERS = {"kmeans_diversity_selector": {"clusters": 4, "count": 9, "prefer": "centre"}}
WORDS = {"words_num_filter": {"min_num": 3}}
TEXTS = {"document_deduplicator": {}}
COPIES = dict(zip(range(20, 24), range(4), strict=True))
"""By row: the row whose image it repeats in another size."""


@pytest.fixture
def run(settings: Settings, seed_root: Path) -> Callable[..., Pipeline]:
    """A pipeline up to budgeted_set, with 40 exposures of the rows that ``select`` keeps."""
    for copy, original in COPIES.items():
        coarse = np.random.default_rng(original).integers(0, 255, (14, 14, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC)
        smooth.save(seed_root / f"images/{original:03d}.png")
        smooth.resize((120, 110)).save(seed_root / f"images/{copy:03d}.png")

    def make(select: list[Any], *, shards: int = 3, **sections: Any) -> Pipeline:
        budget = {"exposures": 40, "select": select, **sections.pop("budget", {})}
        values = {"name": "test", "baseline": True, "budget": budget, **sections}
        profile = settings.profile.model_copy(update={"shards": shards})
        recipe = Recipe.parse(values, where="test")
        root = settings.data_root / str(shards)
        there = replace(settings, recipe=recipe, profile=profile, data_root=root)
        return Pipeline((*STAGES, BUDGETED_SET), ResolvedRun(there), log=lambda line: None)

    return make


def ids(manifest: Manifest, table: str = "kept") -> list[str]:
    return [str(row_id) for row_id in manifest.table(table)["id"].to_pylist()]


@pytest.mark.parametrize("select", [[IMAGES], [TEXTS], [CLUSTERS], [IMAGES, WORDS, CLUSTERS]])
def test_one_shard_and_three_shards_keep_the_same_rows(select: list[Any], run: Callable[..., Pipeline]) -> None:
    one, three = (run(select, shards=shards).ensure("budgeted_set") for shards in (1, 3))
    assert ids(one) == ids(three) and 0 < one.kept < ROWS
    assert one.table()["exposures"] == three.table()["exposures"]
    wanted = ("id", "operator", "reason", "value", "limit")
    assert one.table("rejects").select(wanted) == three.table("rejects").select(wanted)


def test_copies_in_other_shards_are_rejected_and_every_row_is_accounted_for(run: Callable[..., Pipeline]) -> None:
    pipeline = run([IMAGES, WORDS])
    manifest = pipeline.ensure("budgeted_set")
    rejects = manifest.table("rejects").to_pylist()
    copies = [row for row in rejects if row["operator"] == "image_near_duplicate_deduplicator"]
    assert [row["id"] for row in copies] == [f"row{copy:03d}" for copy in COPIES]
    assert [row["reason"].split("row ")[1] for row in copies] == [f"'row{at:03d}', which stays" for at in range(4)]
    assert {row["stage"] for row in rejects} == {"budgeted_set"}
    assert sorted([*ids(manifest), *ids(manifest, "rejects")]) == [f"row{index:03d}" for index in range(ROWS)]
    shards = [{*ids(shard)} for shard in pipeline.current("recaptioned_set")]
    assert not any({"row000", "row020"} <= shard for shard in shards), "otherwise one shard would contain both"
    assert sum(manifest.table()["exposures"].to_pylist()) == 40
    stats = json.loads(manifest.table()["stats"][0].as_py())
    assert len(stats["image_hash"]) == 16 and stats["num_words"] >= 3
    evidence = Evidence(
        manifests=[manifest],
        upstream={"recaptioned_set": pipeline.current("recaptioned_set")},
        settings=pipeline.settings,
        columns=None,
    )
    assert conservation(evidence).passed and budget_met(evidence).passed


def test_with_order_keep_the_budget_rule_counts_the_remaining_rows(run: Callable[..., Pipeline]) -> None:
    pipeline = run([IMAGES], budget={"order": "keep"})
    manifest = pipeline.ensure("budgeted_set")
    evidence = Evidence(manifests=[manifest], upstream={}, settings=pipeline.settings, columns=None)
    assert manifest.kept == ROWS - len(COPIES) and budget_met(evidence).passed
    assert not budget_met(replace(evidence, manifests=[replace(manifest, rejected={})])).passed


def test_clustering_uses_the_embeddings_of_clip_scores_and_opens_no_image(
    run: Callable[..., Pipeline], seed_root: Path
) -> None:
    pipeline = run([CLUSTERS])
    pipeline.ensure_all("recaptioned_set")
    (seed_root / "images").rename(seed_root / "gone")
    manifest = pipeline.ensure("budgeted_set")
    assert (manifest.kept, manifest.rejected) == (9, {"kmeans_diversity_selector": ROWS - 9})


def test_a_row_whose_image_has_changed_has_no_embedding(run: Callable[..., Pipeline], tmp_path: Path) -> None:
    pipeline = run([CLUSTERS])
    inputs = {"clip_scores": pipeline.ensure_all("clip_scores")}
    work = Work(run=ResolvedRun(pipeline.settings), shard="all", folder=tmp_path, inputs=inputs, log=print)
    rows = work.rows("clip_scores").sort_by("line")
    hashes = rows["image_hash"].to_pylist()
    hashes[7] = "another"
    place = rows.schema.get_field_index("image_hash")
    found = embeddings_of(work, rows.set_column(place, "image_hash", pa.array(hashes)))
    assert [place for place, embedding in enumerate(found) if embedding is None] == [7]
    by_id = dict(zip(work.rows("clip_scores")["id"].to_pylist(), read_embeddings(inputs["clip_scores"]), strict=True))
    assert all(
        np.array_equal(embedding, by_id[row_id])
        for row_id, embedding in zip(rows["id"].to_pylist(), found, strict=True)
        if embedding is not None
    )


def test_an_image_that_breaks_later_fails_the_set_until_it_is_ingested_again(
    run: Callable[..., Pipeline], seed_root: Path
) -> None:
    pipeline = run([IMAGES])
    pipeline.ensure_all("recaptioned_set")
    break_image(seed_root, "images/005.png")
    with pytest.raises(EnvironmentFault, match=r"images/005\.png has changed since its row was read: run again"):
        pipeline.ensure("budgeted_set")
    manifest = run([IMAGES]).ensure("budgeted_set")
    assert manifest.quarantined == {} and manifest.lost == 0 and manifest.kept == ROWS - len(COPIES) - 1


def test_a_filter_in_select_gets_the_limits_of_the_whole_seed(run: Callable[..., Pipeline]) -> None:
    manifest = run([{"clip_score_filter": {"method": "top_k", "count": 12}}, IMAGES]).ensure("budgeted_set")
    assert manifest.rejected["clip_score_filter"] == ROWS - 12


def test_a_recipe_without_select_depends_on_no_models_and_no_seed(run: Callable[..., Pipeline]) -> None:
    pipeline = run([])
    manifest = pipeline.ensure("budgeted_set")
    assert manifest.inputs.keys() == {"recaptioned_set"}
    depends = BUDGETED_SET.depends(ResolvedRun(pipeline.settings), "all", {})
    assert isinstance(depends, dict) and depends.keys() == {"budget", "section", "questions"}
    assert run([IMAGES]).ensure("budgeted_set").key != manifest.key


def test_an_invalid_list_is_refused_before_any_row_is_filtered(run: Callable[..., Pipeline]) -> None:
    mapper: dict[str, Any] = {"whitespace_normalization_mapper": {}}
    with pytest.raises(ConfigError, match=r"'whitespace_normalization_mapper' in budget\.select is a Mapper"):
        run([IMAGES, mapper]).ensure_all("filtered_set")
    with pytest.raises(ConfigError, match="unknown argument 'max_distanze'"):
        run([{"image_near_duplicate_deduplicator": {"max_distanze": 4}}]).ensure_all("filtered_set")
    with pytest.raises(ConfigError, match=r"'document_deduplicator' needs all rows.*`budget\.select`"):
        run([], process=[TEXTS]).ensure_all("filtered_set")


def test_the_error_for_a_list_that_rejects_all_rows_names_the_operator(run: Callable[..., Pipeline]) -> None:
    with pytest.raises(EmptySetError, match=r"of 30\. operator words_num_filter of budgeted_set removed most, 26"):
        run([IMAGES, {"words_num_filter": {"min_num": 99}}]).ensure("budgeted_set")
