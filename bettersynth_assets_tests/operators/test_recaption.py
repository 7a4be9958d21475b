from __future__ import annotations

import numpy as np
import pytest
import torch

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.operators.recaption import (
    choose_caption,
    positions_to_recaption,
    recaptioned_table,
    summary,
    synthesise,
)
from bettersynth_assets.operators.synthetic import Synthetic
from bettersynth_assets_tests.helpers.rows import break_image, write_images
from toolkit.progress import Progress

ROW = {
    "id": "a", "line": 1, "image": "images/a.png", "caption": "old", "width": 9, "height": 9, "words": 3, "mode": "RGB",
    "format": "PNG", "bytes": 1, "flags": [], "clip_score": 0.3, "text_truncated": False, "stats": "{}",
}  # fmt: skip
BETTER = Synthetic(raw="new stock photo", text="new", flags=("tail_cut",), score=0.4)
WORSE = Synthetic(raw="new", text="new", flags=(), score=0.2)
EQUAL = Synthetic(raw="new", text="new", flags=(), score=0.3)
LOOP = Synthetic(raw="a a a a", text="", flags=("loop",), score=None)


@pytest.mark.parametrize(
    ("policy", "made", "choice"),
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
def test_each_policy_chooses_as_documented_and_rows_keep_both_captions(policy, made, choice):
    row = choose_caption(ROW, made, CaptionSection(policy=policy))
    assert row["choice"] == choice
    assert (row["original_caption"], row["original_score"]) == ("old", 0.3)
    if made is not None:
        assert (row["synthetic_caption"], row["raw_caption"]) == (made.text, made.raw)
        assert row["synthetic_score"] == made.score and row["caption_flags"] == list(made.flags)
    expected = ("new", made.score) if choice == "synthetic" else ("old", 0.3)
    assert (row["caption"], row["clip_score"]) == expected


def test_low_score_only_recaptions_only_rows_below_the_limit():
    scores = [0.1, 0.3, 0.2999, 0.5]
    assert positions_to_recaption(scores, CaptionSection(policy="low_score_only"), 0.3) == [0, 2]
    assert positions_to_recaption(scores, CaptionSection(policy="best_of"), 0.3) == [0, 1, 2, 3]


class FixedCaptioner:
    """Writes captions that depend only on the image's width."""

    batch, default_prompt = BatchSize(3), ""

    def __init__(self, by_width):
        self.by_width = by_width

    def prepare(self, image):
        return torch.tensor(image.width)

    def captions(self, images, *, prompt, max_new_tokens, sampling, keys):
        assert len(keys) == len(images)
        return [self.by_width[width] for width in images.int().tolist()]


class LengthScorer:
    """Scores a caption by its length in hundredths."""

    decode, device = "pillow", "cpu"

    def prepare(self, image):
        return torch.tensor(0)

    def scores(self, images, captions):
        return np.array([len(caption) / 100 for caption in captions], np.float32)


def test_captions_are_cleaned_scored_and_assigned_to_their_rows_despite_broken_images(tmp_path):
    names = write_images(tmp_path, 5)
    break_image(tmp_path, names[1])
    texts = {48: "a dog stock photo", 50: "cat cat cat", 51: "", 52: "a b"}
    lines = []
    progress = Progress(lines.append, "captions", 5)
    paths = [tmp_path / name for name in names]
    made = synthesise(paths, names, FixedCaptioner(texts), LengthScorer(), CaptionSection(), progress)
    assert isinstance(made[1], ImageError) and made[1].reason == "decode_error"
    assert made[0] == Synthetic(raw="a dog stock photo", text="a dog", flags=("tail_cut",), score=pytest.approx(0.05))
    assert made[2] == Synthetic(raw="cat cat cat", text="", flags=("loop",), score=None)
    assert made[3].flags == ("empty",)
    assert made[4] == Synthetic(raw="a b", text="a b", flags=(), score=pytest.approx(0.03))
    assert lines[-1].startswith("captions: 5/5 rows")


def test_without_cleaning_only_an_empty_caption_is_replaced_by_the_original(tmp_path):
    names = write_images(tmp_path, 2)
    captioner = FixedCaptioner({48: "a dog  stock photo", 49: " "})
    section = CaptionSection(clean=False)
    paths = [tmp_path / name for name in names]
    made = synthesise(paths, names, captioner, LengthScorer(), section, Progress(print, "captions", 2))
    assert made[0].text == "a dog stock photo" and made[0].flags == ()
    assert made[1].flags == ("empty",) and choose_caption(ROW, made[1], section)["choice"] == "original"


def test_the_summary_counts_choices_and_flags_and_means():
    rows = [choose_caption(ROW, made, CaptionSection()) for made in (BETTER, WORSE, LOOP)] + [
        choose_caption(ROW, None, None)
    ]
    found = summary(recaptioned_table(rows))
    assert found["captioned"] == 3 and found["choices"] == {"original": 2, "synthetic": 2}
    assert found["flags"] == {"loop": 1, "tail_cut": 1}
    assert found["score_mean_original"] == pytest.approx(0.3) and found["score_mean_chosen"] == pytest.approx(0.3)
    assert summary(recaptioned_table([]))["score_mean_chosen"] is None
