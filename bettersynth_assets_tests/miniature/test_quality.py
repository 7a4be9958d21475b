"""Measures of quality on tables small enough to count by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from bettersynth_assets.miniature.quality import (
    FilterQuality,
    Truth,
    auc,
    caption_quality,
    filter_quality,
    score_quality,
)
from bettersynth_assets.miniature.world import Scene, Sign, Thing

SCENE = Scene(
    things=(
        Thing(color="red", shape="circle", size="small", row=1, column=0),
        Thing(color="blue", shape="star", size="large", row=1, column=2),
    ),
    signs=(Sign(color="pink", word="fox", row=0),),
    look=1,
)


def truth_of(**rows: dict[str, object]) -> Truth:
    sound = {"mismatch": "", "degenerate": "", "watermark": False, "odd_size": False, "scene": SCENE.to_json()}
    return {row_id: {**sound, **row} for row_id, row in rows.items()}


def test_auc_counts_pairs_and_counts_ties_as_half() -> None:
    assert auc([3.0, 2.0], [1.0, 2.0]) == (1 + 1 + 1 + 0.5) / 4
    assert auc([], [1.0]) is None


def test_scores_are_split_by_kind_of_mismatch() -> None:
    truth = truth_of(a={}, b={}, c={"mismatch": "easy"}, d={"mismatch": "hard"}, e={"degenerate": "spam"})
    scores = pa.table({"id": list("abcde"), "clip_score": [0.5, 0.3, 0.1, 0.4, 0.3]})
    assert score_quality(scores, truth) == {
        "auc_mismatch": (2 + 1) / 4, "auc_easy": 1.0, "auc_hard": 0.5, "auc_degenerate": 0.75,
    }  # fmt: skip


def test_filters_are_measured_against_the_fault_that_they_target() -> None:
    truth = truth_of(a={"watermark": True}, b={}, c={"watermark": True}, d={"mismatch": "easy"}, e={})
    rejects = pa.table({"id": ["a", "b", "d"], "operator": ["image_watermark_filter"] * 2 + ["clip_score_filter"]})
    watermark, score = filter_quality(rejects, list("abcde"), truth)
    assert watermark == FilterQuality(operator="image_watermark_filter", rejected=2, faulty=2, correct=1)
    assert (watermark.precision, watermark.recall) == (0.5, 0.5)
    assert (score.precision, score.recall) == (1.0, 1.0)


def test_captions_are_checked_thing_by_thing_and_word_by_word() -> None:
    captions = pa.table({
        "id": ["a", "b", "c"],
        "caption": ["small red circle top left and a blue circle", "pink sign saying fox", "nothing"],
    })  # fmt: skip
    assert caption_quality(captions, truth_of(a={}, b={}, c={})) == {
        "names_a_thing": 1 / 3, "things_named": 1 / 6, "things_true": 0.5, "words_read": 1 / 3, "words_true": 1.0,
    }  # fmt: skip


def test_a_table_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="another world"):
        caption_quality(pa.table({"id": ["x"], "caption": ["a"]}), truth_of(a={}))
