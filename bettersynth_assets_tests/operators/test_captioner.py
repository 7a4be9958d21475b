from __future__ import annotations

import pytest

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.captioner import load_captioner
from bettersynth_assets_tests.operators.rows import tiny_profile


def test_many_shards_load_the_model_once_and_a_missing_one_is_named(tiny_models):
    gpu = tiny_profile(tiny_models).gpu
    assert load_captioner(str(tiny_models.captioner), gpu) is load_captioner(str(tiny_models.captioner), gpu)
    with pytest.raises(ConfigError, match=r"models\.captioner = './gone'"):
        load_captioner("./gone", gpu)
