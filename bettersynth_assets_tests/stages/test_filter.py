from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.schema import FILTERED
from bettersynth_assets_tests.helpers.seed_stages import STAGES

PROCESS = [
    {"words_num_filter": {"min_num": 5, "max_num": 24}},
    {"image_shape_filter": {"min_width": 50}},
    {"image_watermark_filter": {"prob_threshold": 0.8}},
    {"clip_score_filter": {"method": "mean"}},
]


def all_rows(shards, table="kept"):
    return [row for shard in shards for row in shard.table(table).to_pylist()]


def test_each_shard_is_filtered_by_the_mean_over_all_shards(pipeline):
    run = pipeline(process=[{"clip_score_filter": {"method": "mean"}}])
    shards = run.ensure_all("filtered_set")
    scores = {row["id"]: row["clip_score"] for row in all_rows(run.ensure_all("clip_scores"))}
    mean = np.mean(np.array(list(scores.values()), np.float32), dtype=np.float64)
    assert [shard.lost for shard in shards] == [0, 0, 0]
    assert {row["id"] for row in all_rows(shards)} == {row_id for row_id, score in scores.items() if score >= mean}
    assert shards[0].stats["process"][0]["clip_score_filter"]["min_score"] == pytest.approx(mean)
    assert run.ensure("seed_profile").stats["clip_score"]["mean"] == pytest.approx(mean)


def test_top_k_keeps_exactly_k_rows_over_all_shards(pipeline):
    run = pipeline(process=[{"clip_score_filter": {"method": "top_k", "count": 11}}])
    kept = all_rows(run.ensure_all("filtered_set"))
    best = sorted(all_rows(run.ensure_all("clip_scores")), key=lambda row: -row["clip_score"])[:11]
    assert {row["id"] for row in kept} == {row["id"] for row in best} and len(kept) == 11


@pytest.mark.slow
def test_every_reject_names_operator_value_and_limit(pipeline):
    shards = pipeline(process=PROCESS).ensure_all("filtered_set")
    assert all(shard.lost == 0 and shard.table().schema == FILTERED for shard in shards)
    rejects = all_rows(shards, "rejects")
    assert {row["operator"] for row in rejects} == {next(iter(entry)) for entry in PROCESS}
    for row in rejects:
        assert row["value"] is not None and row["stage"] == "filtered_set" and json.loads(row["limit"])
    assert sum(shard.kept for shard in shards) + len(rejects) == 30


@pytest.mark.slow
def test_a_changed_limit_filters_again_without_scoring_again(pipeline):
    pipeline(process=PROCESS).ensure_all("filtered_set")
    again = pipeline(process=PROCESS)
    again.ensure_all("filtered_set")
    assert again.materialized == []
    changed = pipeline(process=[{"words_num_filter": {"min_num": 4, "max_num": 24}}, *PROCESS[1:]])
    changed.ensure_all("filtered_set")
    assert {shard.stage for shard in changed.materialized} == {"filtered_set"}


@pytest.mark.slow
def test_a_new_caption_section_leaves_the_filtered_rows_alone(pipeline):
    pipeline(process=PROCESS).ensure_all("filtered_set")
    other = pipeline(process=PROCESS, caption={"policy": "best_of"})
    other.ensure_all("filtered_set")
    assert other.materialized == []


def test_a_recipe_without_operators_keeps_every_row(pipeline):
    shards = pipeline().ensure_all("filtered_set")
    assert [shard.kept for shard in shards] == [10, 10, 10]


def test_the_log_names_the_shard_that_an_operator_processes(pipeline):
    run = pipeline(process=PROCESS[:1])
    lines = []
    run.log = lines.append
    shards = run.ensure_all("filtered_set")
    logged = [line for line in lines if "words_num_filter" in line]
    assert [line.rpartition(" ")[2] for line in logged] == [f"({shard.shard})" for shard in shards]


def test_an_unknown_operator_is_named(pipeline):
    with pytest.raises(ConfigError, match="did you mean 'words_num_filter'"):
        pipeline(process=[{"word_num_filter": {}}]).ensure("filtered_set", "shard-00000")


def test_a_mapper_changes_captions_and_their_scores(pipeline):
    run = pipeline(process=[{"replace_content_mapper": {"pattern": "two dogs", "repl": "one small cat"}}])
    before = {row["id"]: row for row in all_rows(run.ensure_all("clip_scores"))}
    edited = [row for row in all_rows(run.ensure_all("filtered_set")) if "caption_edited" in row["flags"]]
    assert len(edited) == 6
    for row in edited:
        assert row["caption"] == "one small cat" and before[row["id"]]["caption"] == "two dogs"
        assert row["clip_score"] != before[row["id"]]["clip_score"]


def test_the_diversity_selector_uses_the_embeddings_of_clip_scores(settings, monkeypatch):
    from bettersynth_assets.operators.ours import kmeans_diversity_selector as selectors

    selector = {"clusters": 3, "count": 8}
    profile = settings.profile.model_copy(update={"shards": 1})
    recipe = {"name": "test", "baseline": True}

    def kept(name, *entries):
        chosen = Recipe.parse({**recipe, "process": list(entries)}, where="test")
        run = Pipeline(STAGES, ResolvedRun(replace(settings, profile=profile, recipe=chosen)), log=lambda line: None)
        run.ensure("clip_scores", profile.shard_names()[0])
        return run.ensure("filtered_set", profile.shard_names()[0]).table()["id"].to_pylist()

    texts = {"document_deduplicator": {}}
    own = kept("own", texts, {"kmeans_diversity_selector": {**selector, "dtype": "float32"}})
    assert len({*own}) == min(8, len(own)) > 3
    monkeypatch.setattr(selectors.KmeansDiversitySelector, "measure", None)  # a call would fail
    assert kept("stored", texts, {"kmeans_diversity_selector": selector}) == own
