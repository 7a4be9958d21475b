from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.records.schema import RECAPTIONED
from bettersynth_assets.stages.recaption import caption_key
from bettersynth_assets_tests.helpers.rows import break_image
from bettersynth_assets_tests.helpers.seed_stages import STAGES
from tiny_models.synthesis import make_llava
from toolkit.file_errors import EnvironmentFault

SHORT = {"max_new_tokens": 6}
UPSTREAM = ("seed_dataset", "clip_scores", "seed_profile")


def all_rows(shards, table="kept"):
    return [row for shard in shards for row in shard.table(table).to_pylist()]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["replace", "best_of", "low_score_only"])
def test_each_policy_keeps_every_row_with_both_captions_and_their_real_scores(pipeline, policy, seed_root, tiny_models):
    run = pipeline(caption={"policy": policy, **SHORT})
    shards = run.ensure_all("recaptioned_set")
    assert [shard.lost for shard in shards] == [0, 0, 0] and sum(shard.kept for shard in shards) == 30
    assert all(shard.table().schema == RECAPTIONED for shard in shards)
    rows = all_rows(shards)
    mean = run.ensure("seed_profile").stats["clip_score"]["mean"]
    original = {row["id"]: row for row in all_rows(run.ensure_all("clip_scores"))}
    for row in rows:
        before = original[row["id"]]
        assert (row["original_caption"], row["original_score"]) == (before["caption"], before["clip_score"])
        assert (row["raw_caption"] is None) == (policy == "low_score_only" and row["original_score"] >= mean)
        side = "synthetic" if row["choice"] == "synthetic" else "original"
        assert (row["caption"], row["clip_score"]) == (row[f"{side}_caption"], row[f"{side}_score"])
        if policy == "best_of" and row["synthetic_score"] is not None:
            assert (row["choice"] == "synthetic") == (row["synthetic_score"] > row["original_score"])
    synthetic = [row for row in rows if row["choice"] == "synthetic"]
    assert 0 < len(synthetic) < 30
    paths = [seed_root / row["image"] for row in synthetic]
    expected = score_files(ClipScorer(str(tiny_models.clip)), paths, [row["caption"] for row in synthetic])
    np.testing.assert_allclose([row["clip_score"] for row in synthetic], expected.scores, atol=1e-5)
    choices = {
        choice: sum(shard.stats["choices"].get(choice, 0) for shard in shards) for choice in ("original", "synthetic")
    }
    assert choices == {"original": 30 - len(synthetic), "synthetic": len(synthetic)}


@pytest.mark.slow
def test_the_second_filter_applies_the_seeds_limits_to_the_chosen_captions(pipeline):
    refilter = [{"words_num_filter": {"min_num": 4}}, {"clip_score_filter": {"method": "mean"}}]
    plain = all_rows(pipeline(caption={**SHORT}).ensure_all("recaptioned_set"))
    run = pipeline(caption={**SHORT, "refilter": refilter})
    shards = run.ensure_all("recaptioned_set")
    mean = run.ensure("seed_profile").stats["clip_score"]["mean"]
    expected = [row["id"] for row in plain if len(row["caption"].split()) + 2 >= 4 and row["clip_score"] >= mean]
    assert [row["id"] for row in all_rows(shards)] == expected and 0 < len(expected) < 30
    rejects = all_rows(shards, "rejects")
    assert len(rejects) == 30 - len(expected) and {row["stage"] for row in rejects} == {"recaptioned_set"}
    assert [shard.lost for shard in shards] == [0, 0, 0]


def test_a_baseline_passes_rows_through_with_their_original_captions(pipeline):
    rows = all_rows(pipeline().ensure_all("recaptioned_set"))
    assert len(rows) == 30 and {row["choice"] for row in rows} == {"original"}
    assert all(row["caption"] == row["original_caption"] and row["synthetic_caption"] is None for row in rows)


@pytest.mark.slow
def test_a_change_of_the_caption_section_redoes_only_the_captions(pipeline):
    pipeline(caption={"policy": "replace", **SHORT}).ensure_all("recaptioned_set")
    again = pipeline(caption={"policy": "replace", **SHORT})
    again.ensure_all("recaptioned_set")
    assert again.materialized == []
    changed = pipeline(caption={"policy": "best_of", **SHORT})
    changed.ensure_all("recaptioned_set")
    assert {shard.stage for shard in changed.materialized} == {"recaptioned_set"} and len(changed.materialized) == 3


@pytest.mark.slow
def test_an_image_that_breaks_during_a_run_fails_its_shard_and_is_quarantined_by_the_next(pipeline, seed_root):
    run = pipeline(caption={**SHORT})
    run.ensure_all("filtered_set")
    break_image(seed_root, "images/012.png")
    with pytest.raises(EnvironmentFault, match=r"images/012\.png has changed since its row was read: run again"):
        run.ensure_all("recaptioned_set")
    again = pipeline(caption={**SHORT})
    shards = again.ensure_all("recaptioned_set")
    quarantined = [
        row for name in ("seed_dataset", "recaptioned_set") for row in all_rows(again.current(name), "quarantine")
    ]
    assert [(row["id"], row["stage"], row["reason"]) for row in quarantined] == [
        ("row012", "seed_dataset", "decode_error")
    ]
    assert [shard.lost for shard in shards] == [0, 0, 0] and sum(shard.kept for shard in shards) == 29


@pytest.mark.slow
def test_a_shard_without_rows_after_the_filter_is_empty_and_not_an_error(pipeline):
    run = pipeline(process=[{"words_num_filter": {"min_num": 99}}], caption={**SHORT})
    assert [shard.kept for shard in run.ensure_all("recaptioned_set")] == [0, 0, 0]


@pytest.mark.slow
def test_another_policy_or_limit_chooses_and_filters_again_without_captioning_again(pipeline, monkeypatch):
    plain = all_rows(pipeline(caption={**SHORT}).ensure_all("recaptioned_set"))

    def no_captioner(*_):
        raise AssertionError("captions were made again")

    monkeypatch.setattr("bettersynth_assets.stages.run_models.load_captioner", no_captioner)
    refilter = [{"clip_score_filter": {"method": "mean"}}]
    kept = all_rows(
        pipeline(caption={**SHORT, "policy": "best_of", "refilter": refilter}).ensure_all("recaptioned_set")
    )
    synthetic = {row["id"]: row["synthetic_caption"] for row in plain}
    assert kept and all(row["synthetic_caption"] == synthetic[row["id"]] for row in kept)
    with pytest.raises(AssertionError, match="made again"):
        pipeline(caption={**SHORT, "prompt": "a"}).ensure_all("recaptioned_set")


@pytest.mark.slow
def test_sampled_captions_do_not_depend_on_shards_and_greedy_keys_are_unchanged(pipeline, settings):
    section = CaptionSection(**SHORT)
    assert caption_key(ResolvedRun(settings), section)["section"] == section.key("captions") == SHORT
    greedy = all_rows(pipeline(caption={**SHORT}).ensure_all("recaptioned_set"))
    sampling = {"temperature": 2.0, "top_k": 10, "seed": 5}
    run = pipeline(caption={**SHORT, "sampling": sampling})
    drawn = {row["id"]: row["raw_caption"] for row in all_rows(run.ensure_all("recaptioned_set"))}
    assert {shard.stage for shard in run.materialized} == {"recaptioned_set"}
    assert sum(drawn[row["id"]] != row["raw_caption"] for row in greedy) > 15
    whole = replace(
        run.settings, profile=run.settings.profile.model_copy(update={"shards": 1}), data_root=settings.data_root / "b"
    )
    rows = all_rows(Pipeline(STAGES, ResolvedRun(whole), log=lambda line: None).ensure_all("recaptioned_set"))
    assert {row["id"]: row["raw_caption"] for row in rows} == drawn
    other = pipeline(caption={**SHORT, "sampling": sampling | {"seed": 6}})
    assert {row["id"]: row["raw_caption"] for row in all_rows(other.ensure_all("recaptioned_set"))} != drawn


@pytest.mark.slow
def test_the_same_stage_captions_with_a_llava_checkpoint_of_the_profile(pipeline, tmp_path):
    plain = pipeline(caption={**SHORT})
    models = plain.settings.profile.models.model_copy(update={"captioner": str(make_llava(tmp_path / "llava"))})
    profile = plain.settings.profile.model_copy(update={"models": models})
    run = Pipeline(STAGES, ResolvedRun(replace(plain.settings, profile=profile)), log=lambda line: None)
    shards = run.ensure_all("recaptioned_set")
    rows = all_rows(shards)
    assert len(rows) == 30 and [shard.lost for shard in shards] == [0, 0, 0]
    raw = [row["raw_caption"] for row in rows]
    assert len(set(raw)) > 3 and not any("USER" in text or "<image>" in text for text in raw)
    assert {shard.stage for shard in run.materialized} == {shard.stage for shard in shards} | {
        "filtered_set",
        *UPSTREAM,
    }
    plain.ensure_all("recaptioned_set")
    assert raw != [row["raw_caption"] for row in all_rows(plain.ensure_all("recaptioned_set"))]
