from __future__ import annotations

import pytest

from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from bettersynth_assets.models.captioners.captioner import load_captioner
from bettersynth_assets.models.captioners.llava import LlavaCaptioner
from bettersynth_assets.operators.sandbox import registry
from bettersynth_assets_tests.helpers.caption_server import NAME, completion, serving
from bettersynth_assets_tests.helpers.rows import tiny_profile, write_images
from tiny_models.synthesis import make_llava
from toolkit.tokens import kit_text


def loaded(model: str, gpu):
    return load_captioner(resolve_model(model, role="captioner"), gpu)


def test_shards_share_one_loaded_captioner_and_a_missing_model_is_named(tiny_models):
    gpu = tiny_profile(tiny_models).gpu
    assert loaded(str(tiny_models.captioner), gpu) is loaded(str(tiny_models.captioner), gpu)
    with pytest.raises(ConfigError, match=r"models\.captioner = './gone'"):
        loaded("./gone", gpu)


def test_the_checkpoints_configuration_decides_the_class(tiny_models, tmp_path):
    gpu = tiny_profile(tiny_models).gpu
    assert isinstance(loaded(str(tiny_models.captioner), gpu), Blip2Captioner)
    assert isinstance(loaded(str(make_llava(tmp_path / "llava")), gpu), LlavaCaptioner)


def test_a_checkpoint_that_is_not_a_captioner_is_refused_by_name(tiny_models, tmp_path):
    gpu = tiny_profile(tiny_models).gpu
    with pytest.raises(ConfigError, match=r"model_type 'vit', but captioners are of type blip-2 or llava"):
        loaded(str(tiny_models.watermark), gpu)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"it has no config.json with a model_type"):
        loaded(str(tmp_path / "empty"), gpu)


def test_the_mapper_in_plain_dj_process_keeps_the_text_if_the_caption_is_degenerate(tmp_path):
    (name,) = write_images(tmp_path, 1)
    registry()  # Data-Juicer, without what it fetches while it is imported
    from bettersynth_assets.operators.ours.caption_mapper import CaptionMapper

    texts = ["a dog", "a <image> dog", "a dog <|im_end|>", "I cannot assist", "<think>x</think>a cat", ""]
    with serving(None) as server:
        server.script = lambda body: completion(texts[len(server.asked) - 1])
        operator = CaptionMapper(captioner=f"{server.address}#{NAME}")
        before = kit_text("old")
        samples = [{"text": [before], "images": [[str(tmp_path / name)]], "id": ["r"]} for _ in texts]
        found = [operator.process_batched(sample)["text"][0] for sample in samples]
    assert found == [kit_text("a dog"), before, before, before, kit_text("a cat"), before]
