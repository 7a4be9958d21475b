from __future__ import annotations

import pytest

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.synthetic import Synthetic
from bettersynth_assets.stages.caption_choice import (
    choice_stats,
    choose_caption,
    choose_captions,
    positions_to_recaption,
    recaptioned_table,
)

ROW = {
    "id": "a", "line": 1, "image": "images/a.png", "caption": "old", "width": 9, "height": 9, "words": 3, "mode": "RGB",
    "format": "PNG", "bytes": 1, "flags": [], "clip_score": 0.3, "text_truncated": False, "stats": "{}",
}  # fmt: skip
BETTER = Synthetic(raw="new stock photo", text="new", flags=("tail_cut",), score=0.4)
WORSE = Synthetic(raw="new", text="new", flags=(), score=0.2)
EQUAL = Synthetic(raw="new", text="new", flags=(), score=0.3)
LOOP = Synthetic(raw="a a a a", text="", flags=("loop",), score=None)


@pytest.mark.parametrize(
    ("policy", "synthetic", "choice"),
    [
        ("replace", BETTER, "synthetic"),
        ("replace", WORSE, "synthetic"),
        ("replace", LOOP, "original"),
        ("best_of", BETTER, "synthetic"),
        ("best_of", WORSE, "original"),
        ("best_of", EQUAL, "original"),
        ("best_of", LOOP, "original"),
        ("low_score_only", WORSE, "synthetic"),
        ("low_score_only", LOOP, "original"),
        ("low_score_only", None, "original"),
    ],
)
def test_each_policy_chooses_as_documented_and_rows_keep_both_captions(policy, synthetic, choice):
    row = choose_caption(ROW, synthetic, CaptionSection(policy=policy))
    assert row["choice"] == choice
    assert (row["original_caption"], row["original_score"]) == ("old", 0.3)
    if synthetic is not None:
        assert (row["synthetic_caption"], row["raw_caption"]) == (synthetic.text, synthetic.raw)
        assert row["synthetic_score"] == synthetic.score and row["caption_flags"] == list(synthetic.flags)
    expected = ("new", synthetic.score) if choice == "synthetic" else ("old", 0.3)
    assert (row["caption"], row["clip_score"]) == expected


def test_low_score_only_recaptions_only_rows_below_the_limit():
    scores = [0.1, 0.3, 0.2999, 0.5]
    assert positions_to_recaption(scores, CaptionSection(policy="low_score_only"), 0.3) == [0, 2]
    assert positions_to_recaption(scores, CaptionSection(policy="best_of"), 0.3) == [0, 1, 2, 3]


def test_the_stats_count_choices_and_flags_and_means():
    rows = [choose_caption(ROW, synthetic, CaptionSection()) for synthetic in (BETTER, WORSE, LOOP)] + [
        choose_caption(ROW, None, None)
    ]
    stats = choice_stats(recaptioned_table(rows))
    assert stats["captioned"] == 3 and stats["choices"] == {"original": 2, "synthetic": 2}
    assert stats["flags"] == {"loop": 1, "tail_cut": 1}
    assert stats["score_mean_original"] == pytest.approx(0.3) and stats["score_mean_chosen"] == pytest.approx(0.3)
    assert choice_stats(recaptioned_table([]))["score_mean_chosen"] is None


def test_a_row_whose_image_cannot_be_decoded_goes_to_the_quarantine_and_others_keep_their_order():
    rows = [{**ROW, "id": name} for name in "abc"]
    captions = {0: BETTER, 1: ImageError("decode_error", "truncated")}
    kept, quarantine = choose_captions(rows, captions, CaptionSection(), stage="recaptioned_set")
    assert [(row["id"], row["choice"]) for row in kept.to_pylist()] == [("a", "synthetic"), ("c", "original")]
    (broken,) = quarantine.to_pylist()
    assert (broken["id"], broken["stage"], broken["reason"]) == ("b", "recaptioned_set", "decode_error")
    assert broken["detail"] == "truncated"
