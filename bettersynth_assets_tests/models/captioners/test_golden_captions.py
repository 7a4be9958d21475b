"""Golden captions of the shipped BLIP-2, and the library versions in a caption's key.

If a library update changes a caption, update the text below and raise ``recaption.VERSION``.
"""

from __future__ import annotations

import random
from importlib.metadata import version

import pytest

from bettersynth_assets.config.recipe import CaptionSection, Sampling
from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.training.make_weights import WEIGHTS
from bettersynth_assets.miniature.world import make_scene
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from bettersynth_assets.models.captioners.caption_cleaning import clean
from bettersynth_assets.stages import recaption

GOLDEN = [
    "small orange circle middle right, pink sign saying bus and blue sign saying box",
    "small black square middle center, large blue circle middle right, red sign saying fox and purple sign saying hat",
    "large blue cross top right",
    "large blue cross middle center, small pink star bottom left and blue sign saying bus",
    "small pink cross middle center, black sign saying box and yellow sign saying map",
    "small purple triangle top center, small orange cross middle right and purple sign saying jam stock photo",
]


@pytest.fixture(scope="module")
def images():
    """Six drawn scenes; the last has a watermark."""
    rng = random.Random(22)
    scenes = [make_scene(rng, "seed") for _ in GOLDEN]
    return [render(scene, width=360, height=336, watermark=at == 5) for at, scene in enumerate(scenes)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_the_shipped_captioner_writes_the_golden_captions(images, batch):
    captioner = Blip2Captioner(str(WEIGHTS / "blip2"), batch=batch)
    assert captioner.captions(images, prompt="", max_new_tokens=30) == GOLDEN
    first = {"sampling": Sampling(top_k=1), "keys": list("abcdef")}
    assert captioner.captions(images, prompt="", max_new_tokens=30, **first) == GOLDEN


def test_cleaning_of_the_golden_captions_is_unchanged():
    assert [clean(caption) for caption in GOLDEN[:5]] == [(caption, ()) for caption in GOLDEN[:5]]
    cut = "small purple triangle top center, small orange cross middle right and purple sign saying jam"
    assert clean(GOLDEN[5]) == (cut, ("tail_cut",))


def test_versions_of_the_libraries_that_decide_a_caption_are_part_of_its_key(run_of_miniature):
    found = recaption.caption_key(run_of_miniature, CaptionSection())["libraries"]
    assert {"torch", "transformers", "open_clip_torch", "pillow"} <= set(found)
    assert all(version(name).startswith(counted) and counted for name, counted in found.items())
    assert set(recaption.LIBRARIES) <= set(recaption.RECAPTIONED_SET.libraries)


@pytest.fixture
def run_of_miniature(tmp_path):
    from bettersynth_assets.config.settings import load_settings
    from bettersynth_assets.engine.resolved_run import ResolvedRun

    return ResolvedRun(settings=load_settings({"BETTERSYNTH_DATA": str(tmp_path)}))
