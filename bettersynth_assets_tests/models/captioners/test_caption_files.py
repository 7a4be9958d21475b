from __future__ import annotations

import numpy as np
import pytest
import torch

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.batching import BatchSize
from bettersynth_assets.models.captioners.caption_files import caption_files
from bettersynth_assets.models.captioners.synthetic import Synthetic
from bettersynth_assets_tests.helpers.rows import break_image, write_images
from toolkit.progress import Progress


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
    captions = caption_files(paths, names, FixedCaptioner(texts), LengthScorer(), CaptionSection(), progress)
    assert isinstance(captions[1], ImageError) and captions[1].reason == "decode_error"
    assert captions[0] == Synthetic(
        raw="a dog stock photo", text="a dog", flags=("tail_cut",), score=pytest.approx(0.05)
    )
    assert captions[2] == Synthetic(raw="cat cat cat", text="", flags=("loop",), score=None)
    assert captions[3].flags == ("empty",)
    assert captions[4] == Synthetic(raw="a b", text="a b", flags=(), score=pytest.approx(0.03))
    assert lines[-1].startswith("captions: 5/5 rows")


def test_without_cleaning_only_an_empty_caption_is_flagged(tmp_path):
    names = write_images(tmp_path, 2)
    captioner = FixedCaptioner({48: "a dog  stock photo", 49: " "})
    section = CaptionSection(clean=False)
    paths = [tmp_path / name for name in names]
    captions = caption_files(paths, names, captioner, LengthScorer(), section, Progress(print, "captions", 2))
    assert captions[0].text == "a dog stock photo" and captions[0].flags == ()
    assert (captions[1].text, captions[1].flags) == ("", ("empty",))
