"""The example of docs/extending.md: a profile names a scorer and a captioner from a file outside the package."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.models.captioners import CAPTIONERS
from bettersynth_assets.models.captioners.captioner import captioner_class, captioner_key
from bettersynth_assets.models.captioners.captioner_kind import captioner_kind
from bettersynth_assets.models.scorers import SCORERS
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets_tests.helpers.paths import ROOT
from bettersynth_assets_tests.helpers.seed_stages import STAGES

PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture
def settings_with_colours(settings, tmp_path, monkeypatch):
    """Settings of a profile that names the page's extension file, as a user writes it."""
    for registry in (SCORERS, CAPTIONERS):
        monkeypatch.setattr(registry, "_added", dict(registry._added))
    (code,) = re.findall(r"```python\n(# colours\.py\n.*?)```", PAGE.read_text(), flags=re.S)
    weights = tmp_path / "colours"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"model_type": "colours"}))
    code += f"# {tmp_path}\n"  # a file is loaded once per process and content
    (tmp_path / "colours.py").write_text(code)
    models = json.dumps({"clip": str(weights), "captioner": str(weights)})
    page = f"extends: miniature\nextensions: [{str(tmp_path / 'colours.py')!r}]\nmodels: {models}\n"
    (tmp_path / "colours.yaml").write_text(page)
    written = load_profile(str(tmp_path / "colours.yaml"))
    models = settings.profile.models.model_copy(
        update={"clip": written.models.clip, "captioner": written.models.captioner}
    )
    profile = settings.profile.model_copy(update={"models": models, "extensions": written.extensions})
    recipe = Recipe.parse({"name": "test", "caption": {"policy": "best_of"}}, where="test")
    return replace(settings, profile=profile, recipe=recipe), code


def rows_of(shards):
    return [row for shard in shards for row in shard.table("kept").to_pylist()]


@pytest.mark.slow
def test_an_external_scorer_and_captioner_work_in_the_stages(settings_with_colours, seed_root):
    settings, code = settings_with_colours
    before = scorer_key(ResolvedRun(settings).scorer, settings.profile.gpu)
    done = Pipeline(STAGES, ResolvedRun(settings), log=lambda line: None).ensure_all("recaptioned_set")
    rows = rows_of(done)
    assert len(rows) == 30 and len({row["raw_caption"] for row in rows}) > 1
    for row in rows:
        mean = np.asarray(Image.open(seed_root / row["image"]), np.float32).mean((0, 1))
        assert row["raw_caption"] == f"a {('red', 'green', 'blue')[int(mean.argmax())]} thing"
        small = np.asarray(Image.open(seed_root / row["image"]).resize((8, 8)), np.float32).mean((0, 1))
        counts = np.array([1.0 + row["original_caption"].split().count(word) for word in ("red", "green", "blue")])
        cosine = small @ counts / np.linalg.norm(small) / np.linalg.norm(counts)
        assert row["original_score"] == pytest.approx(cosine, abs=1e-5)
    digest = hashlib.sha256(code.encode()).hexdigest()
    assert (
        before["scorer"] == digest
        and captioner_key(ResolvedRun(settings).captioner, settings.profile.gpu)["captioner_code"] == digest
    )


def test_the_profile_determines_the_class_and_a_hub_id_is_recognised_by_its_name(settings_with_colours):
    settings, _ = settings_with_colours
    name = settings.profile.models.captioner
    assert captioner_class(ResolvedRun(settings).captioner).__name__ == "ColourCaptioner"
    assert captioner_kind(name) == captioner_kind("someone/Colours-large") == "colours"


def test_keys_of_built_in_models_do_not_contain_code(settings):
    assert "scorer" not in scorer_key(
        ResolvedRun(settings).scorer, settings.profile.gpu
    ) and "captioner_code" not in captioner_key(ResolvedRun(settings).captioner, settings.profile.gpu)
