"""Scorers by hub id, offline, from a hub cache that holds the file formats of public repositories."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets_tests.helpers.library_scores import open_clip_scores, token_counter, transformers_scores
from bettersynth_assets_tests.helpers.public_repositories import (
    REPOSITORIES,
    into_cache,
    make_public_open_clip_siglip,
)
from tiny_models.scorers import LIMIT

pytestmark = pytest.mark.slow

SCORE = """
import json, sys
from PIL import Image
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.models.scorers.clip_score import load_scorer
for line in sys.stdin:
    task = json.loads(line)
    profile = load_profile(task["profile"])
    try:
        scorer = load_scorer(resolve_model(profile.models.clip, role="clip"), profile.gpu)
        images = [Image.open(path).convert("RGB") for path in task["images"]]
        scores = scorer.scores(images, task["captions"]).tolist()
        found = {"scores": scores, "truncated": scorer.tokens(task["captions"]).truncated.tolist()}
    except ConfigError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
"""
LIMITS = {name: 64 if name == "acme/siglip2-naflex" else LIMIT for name in REPOSITORIES}
CAPITALS = {
    "acme/clip": "A", "acme/siglip": "A!", "acme/siglip2-naflex": "A", "hf-hub:acme/open-clip": "A",
    "hf-hub:acme/open-clip-siglip2": "A!",
}  # fmt: skip
"""A spelling that the repository's tokenizer counts like ``a``: it lower-cases, or drops punctuation too."""


def until(count, unit: str, tokens: int) -> str:
    """Repeat the unit until the caption has the given number of tokens."""
    captions = (" ".join([unit] * words) for words in range(1, 2 * tokens))
    return next(caption for caption in captions if count(caption) == tokens)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By repository: the uploaded folder, captions, images, and the scores of an offline run."""
    root = tmp_path_factory.mktemp("hub")
    rng = np.random.default_rng(7)
    images = []
    for number, (wide, high) in enumerate([(64, 48), (47, 91), (301, 200), (33, 33), (17, 320), (31, 30), (80, 80)]):
        images.append(root / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)).save(images[-1])
    tasks = {}
    for name, make in REPOSITORIES.items():
        folder = make(root / "uploaded" / name.replace(":", "-").replace("/", "-"))
        absent = ("config.json",) if name.startswith("hf-hub:") else ()
        into_cache(root / "home", name.removeprefix("hf-hub:"), folder, absent=absent)
        count, limit = token_counter(folder), LIMITS[name]
        units = ["a", CAPITALS.get(name, "a")]
        captions = [until(count, unit, limit + more) for unit in units for more in (0, 1)]
        captions += ["a Red cat", "", "blue " * 200]
        profile = root / f"{folder.name}.yaml"
        profile.write_text(yaml.safe_dump({"extends": "miniature", "models": {"clip": name}}))
        tasks[name] = folder, {"profile": str(profile), "images": [str(path) for path in images], "captions": captions}
    # As `hf download` leaves it, with no note that the repository has no config.json.
    downloaded = make_public_open_clip_siglip(root / "uploaded" / "downloaded", "acme/downloaded")
    into_cache(root / "home", "acme/downloaded", downloaded)
    for name in ("acme/absent", "acme/open-clip", "hf-hub:acme/absent", "hf-hub:acme/downloaded"):
        profile = root / f"refused-{len(tasks)}.yaml"
        profile.write_text(yaml.safe_dump({"extends": "miniature", "models": {"clip": name}}))
        tasks[f"refused {name}"] = root, {"profile": str(profile), "images": [], "captions": []}
    lines = "".join(json.dumps(task) + "\n" for _, task in tasks.values())
    environment = {**os.environ, "HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1"}
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", SCORE], cwd=PROJECT_ROOT, env=environment, input=lines, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(results) == len(tasks)
    return {name: (*task, result) for (name, task), result in zip(tasks.items(), results, strict=True)}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_scores_of_a_hub_id_equal_those_of_its_library(found, name):
    folder, task, result = found[name]
    images = [Image.open(path).convert("RGB") for path in task["images"]]
    captions = task["captions"]
    if name.startswith("hf-hub:"):
        expected = open_clip_scores(folder, images, captions)
    else:
        expected = transformers_scores(folder, images, captions, limit=LIMITS[name])
    np.testing.assert_allclose(result["scores"], expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_caption_at_a_hub_models_token_limit_is_complete_and_one_token_more_is_truncated(found, name):
    _, task, result = found[name]
    assert task["captions"][0] != task["captions"][2] or name not in CAPITALS
    assert result["truncated"] == [False, True, False, True, False, False, True]


def test_an_unavailable_repository_gives_an_error_with_the_fix(found):
    error = found["refused acme/absent"][2]["error"]
    assert error.startswith("models.clip = 'acme/absent': its config.json cannot be downloaded (")
    assert "scorers are of type clip, metaclip_2, open_clip, siglip, siglip2" in error
    assert "or hf-hub:acme/open-clip for a model of OpenCLIP" in found["refused acme/open-clip"][2]["error"]
    for name in ("acme/absent", "acme/downloaded"):
        error = found[f"refused hf-hub:{name}"][2]["error"]
        assert error.startswith(f"models.clip = 'hf-hub:{name}': OpenCLIP cannot load it (")
        assert f"`hf download {name} --local-dir FOLDER`" in error


def test_the_cache_has_the_layout_of_the_hubs_client(tmp_path):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    into_cache(tmp_path / "home", "acme/model", tmp_path / "model")
    cache = tmp_path / "home" / "hub"
    scanned = scan_cache_dir(cache)
    assert not scanned.warnings and [repository.repo_id for repository in scanned.repos] == ["acme/model"]
    path = try_to_load_from_cache("acme/model", "config.json", cache_dir=cache)
    assert isinstance(path, str) and Path(path).read_text() == "{}"
