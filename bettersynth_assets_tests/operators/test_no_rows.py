"""Every model call and every kind of operator accepts an empty batch and returns an empty result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bettersynth_assets.config.recipe import CaptionSection, RegenerateSection
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from bettersynth_assets.models.captioners.caption_files import caption_files
from bettersynth_assets.models.captioners.llava import LlavaCaptioner
from bettersynth_assets.models.captioners.synthetic import Synthetic, synthetic_rows, synthetic_table
from bettersynth_assets.models.diffusion import ImageMaker
from bettersynth_assets.models.scorers.clip_files import embed_files, score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.process import run_process
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import break_image, scored_table, tiny_profile, write_images
from tiny_models.synthesis import make_llava, make_stable_diffusion
from toolkit.models.mgm.answering.answerer import Answerer
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_config, tiny_mgm
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.progress import Progress

NO_PIXELS = torch.zeros(0, 32, 32, 3, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_a_scorer_accepts_an_empty_batch(tiny_models, kind):
    scorer = ClipScorer(str(getattr(tiny_models, kind)))
    assert len(scorer.tokens([])) == 0 and scorer.tokens([]).truncated.dtype == bool
    for images in ([], NO_PIXELS, torch.empty(0)):
        assert scorer.scores(images, []).shape == (0,)
        assert scorer.image_embeddings(images).shape[0] == 0
    scored = score_files(scorer, [], [])
    assert (scored.scores.shape, scored.truncated, scored.errors) == ((0,), [], {})
    assert embed_files(scorer, []) == []


@pytest.mark.parametrize("kind", ["blip2", "llava"])
def test_a_captioner_accepts_an_empty_batch(tiny_models, tmp_path, kind):
    if kind == "blip2":
        captioner = Blip2Captioner(str(tiny_models.captioner))
    else:
        captioner = LlavaCaptioner(str(make_llava(tmp_path / "llava")))
    for images in ([], NO_PIXELS, torch.empty(0)):
        assert captioner.captions(images, prompt="", max_new_tokens=3) == []


@pytest.mark.slow
def test_an_image_maker_accepts_an_empty_batch(tiny_models, tmp_path):
    maker = ImageMaker(str(make_stable_diffusion(tmp_path / "sd", tiny_models.clip)))
    assert list(maker.images([], [], RegenerateSection(steps=1))) == []


@pytest.mark.slow
def test_a_classifier_accepts_an_empty_batch(tiny_models):
    (built,) = build_operators([{"image_watermark_filter": {}}], tiny_profile(tiny_models))
    model = built.model
    assert model.tokens([]) == [] and model.values(NO_PIXELS, []) == []


def test_an_answerer_accepts_an_empty_batch():
    processor = MGMProcessor.for_config(tiny_config(), tiny_tokenizer())
    assert Answerer(model=tiny_mgm().eval(), processor=processor)([]) == []
    assert processor.preprocess([], aspect="pad").images.shape[0] == 0


@pytest.mark.parametrize(
    "entry",
    [
        {"words_num_filter": {}},
        {"replace_content_mapper": {"pattern": "a", "repl": "b"}},
        {"image_watermark_filter": {}},
        {"image_text_similarity_filter": {}},
        {"clip_score_filter": {"method": "min", "min_score": 0.1}},
        {"image_near_duplicate_deduplicator": {}},
        {"document_deduplicator": {}},
        {"kmeans_diversity_selector": {"count": 3}},
        {"topk_specified_field_selector": {"field_key": "__dj__stats__.image_text_similarity", "topk": 3}},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_every_kind_of_operator_accepts_an_empty_table(tiny_models, tmp_path, entry):
    none = scored_table(tmp_path, 1).slice(0, 0)
    built = build_operators([entry], tiny_profile(tiny_models), has_all_rows=True)
    done = run_process(none, built, stage="filtered_set", image_root=tmp_path, rescore=lambda paths, captions: [])
    assert (done.kept.num_rows, done.rejects.num_rows, done.quarantine.num_rows) == (0, 0, 0)


class Says:
    """A captioner that writes one text for all images."""

    default_prompt = ""

    def __init__(self, text, blip2):
        self.text, self.batch, self.prepare = text, blip2.batch, blip2.prepare

    def captions(self, images, *, keys, **how):
        return [self.text for _ in images]


@pytest.mark.parametrize(
    ("text", "flag"),
    [("", "empty"), ("no no no no no no", "loop"), ("a <image>", "reserved_token"), ('{"a": 1}', "markup")],
)
def test_a_batch_of_degenerate_captions_keeps_every_original(tiny_models, tmp_path, text, flag):
    names = write_images(tmp_path, 4)
    captioner = Says(text, Blip2Captioner(str(tiny_models.captioner), batch=2))
    scorer, progress = ClipScorer(str(tiny_models.clip)), Progress(lambda line: None, "captions", 4)
    paths = [tmp_path / name for name in names]
    captions = caption_files(paths, names, captioner, scorer, CaptionSection(), progress)
    assert captions == [Synthetic(raw=text, text="", flags=(flag,), score=None)] * 4
    assert synthetic_rows(synthetic_table(captions)) == captions


def test_a_batch_of_broken_images_gives_their_errors(tiny_models, tmp_path):
    names = write_images(tmp_path, 4)
    for name in names[:2]:
        break_image(tmp_path, name)
    paths = [tmp_path / name for name in names]
    captioner, scorer = Blip2Captioner(str(tiny_models.captioner), batch=2), ClipScorer(str(tiny_models.clip), batch=2)
    progress = Progress(lambda line: None, "captions", 4)
    captions = caption_files(paths, names, captioner, scorer, CaptionSection(), progress)
    assert [isinstance(caption, ImageError) for caption in captions] == [True, True, False, False]
    scored = score_files(scorer, paths, ["a dog"] * 4)
    assert np.isnan(scored.scores).tolist() == [True, True, False, False] and sorted(scored.errors) == [0, 1]
