from __future__ import annotations

import numpy as np

from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.records.schema import SCORED
from bettersynth_assets.stages.score import read_embeddings
from bettersynth_assets_tests.helpers.rows import break_pixels


def test_every_row_gets_its_score(pipeline, seed_root, tiny_models):
    shards = pipeline().ensure_all("clip_scores")
    assert [shard.lost for shard in shards] == [0, 0, 0] and sum(shard.kept for shard in shards) == 30
    scorer = ClipScorer(str(tiny_models.clip))
    for shard in shards:
        table = shard.table()
        assert table.schema == SCORED
        expected = score_files(
            scorer, [seed_root / name for name in table["image"].to_pylist()], table["caption"].to_pylist()
        )
        np.testing.assert_allclose(table["clip_score"].to_numpy(), expected.scores, atol=1e-5)
        assert table["text_truncated"].to_pylist() == expected.truncated
        embeddings = read_embeddings([shard])
        np.testing.assert_allclose(embeddings, expected.embeddings, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
        assert shard.stats["truncated"] == sum(expected.truncated) > 0


def test_an_image_whose_pixels_are_broken_is_quarantined_alone(pipeline, seed_root):
    break_pixels(seed_root, "images/007.png")
    shards = pipeline().ensure_all("clip_scores")
    assert [shard.lost for shard in shards] == [0, 0, 0]
    (row,) = [row for shard in shards for row in shard.table("quarantine").to_pylist()]
    assert (row["id"], row["stage"], row["reason"]) == ("row007", "clip_scores", "decode_error")
    assert sum(shard.kept for shard in shards) == len(read_embeddings(shards)) == 29


def test_equal_rows_give_equal_bytes_and_nothing_is_scored_twice(pipeline, settings):
    first = pipeline().ensure_all("clip_scores")
    again = pipeline(process=[{"words_num_filter": {"min_num": 5}}])
    again.ensure_all("clip_scores")
    assert again.materialized == []
    for shard in first:
        (settings.shared_root / "clip_scores" / shard.shard / "manifest.json").unlink()
    redone = pipeline()
    assert [shard.digest for shard in redone.ensure_all("clip_scores")] == [shard.digest for shard in first]
    assert {shard.stage for shard in redone.materialized} == {"clip_scores"}
