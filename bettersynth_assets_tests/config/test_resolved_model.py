"""Resolving models: folders and hub ids, fingerprints, and the error of a missing one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.resolved_model import model_path, resolve_model
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators import stock
from bettersynth_assets_tests.helpers.operators import operators_key


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "hf-hub:org/name", "hf-hub:recipes/name"])
def test_hub_ids_are_accepted(name: str) -> None:
    assert model_path(name, role="clip") == name


@pytest.mark.parametrize("name", ["./weights", "/nowhere/clip", "recipes/clip", "a/b/c", "clip", "~/no-such-model"])
def test_a_missing_local_path_is_named_with_the_fix(name: str) -> None:
    with pytest.raises(ConfigError, match=r"models\.clip = .*no such folder"):
        model_path(name, role="clip")


def test_the_fingerprint_depends_on_contents_and_names_and_not_on_location_or_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    os.utime(second / "model.safetensors", (1, 1))
    assert resolve_model(str(first), role="clip").fingerprint == resolve_model(str(second), role="clip").fingerprint
    (second / "model.safetensors").write_bytes(b"Weights")
    assert resolve_model(str(first), role="clip").fingerprint != resolve_model(str(second), role="clip").fingerprint
    before = resolve_model(str(first), role="clip").fingerprint
    (first / "model.safetensors").rename(first / "other.safetensors")
    assert resolve_model(str(first), role="clip").fingerprint != before


def test_the_fingerprint_of_a_hub_id_is_the_id() -> None:
    assert resolve_model("org/name", role="clip").fingerprint == "org/name"


@pytest.mark.parametrize("role", ["clip", "captioner", "base"])
def test_a_missing_model_is_named_by_its_key(role: str) -> None:
    with pytest.raises(ConfigError, match=rf"^models\.{role} = './none': no such folder"):
        resolve_model("./none", role=role)


def test_a_served_captioner_is_resolved_by_its_address_and_has_no_type() -> None:
    found = resolve_model("http://127.0.0.1:8000/v1?seed=1#some-model", role="captioner")
    other = resolve_model("http://elsewhere:9000/v1?seed=1#some-model", role="captioner")
    assert found.is_served and found.type is None
    assert found.fingerprint == other.fingerprint  # the same model at another address
    with pytest.raises(ConfigError, match=r"models\.clip"):
        resolve_model("http://127.0.0.1:8000/v1#some-model", role="clip")


def test_the_type_of_a_folder_is_that_of_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    assert resolve_model(str(tmp_path), role="captioner").type == "blip-2"


@pytest.mark.parametrize(
    ("operator", "role"),
    # phrase_grounding_recall_filter asks for NLTK data first, which the miniature does not have.
    [
        *((spec.name, spec.model.role) for spec in stock.SPECS if spec.model and spec.model.role != "grounding"),
        ("clip_score_filter", "clip"),
        ("kmeans_diversity_selector", "clip"),
    ],
)
def test_a_missing_model_of_an_operator_is_named_by_its_key(operator: str, role: str) -> None:
    profile = load_profile("miniature")
    without = profile.model_copy(update={"models": profile.models.model_copy(update={role: "./none"})})
    with pytest.raises(ConfigError, match=rf"^models\.{role} = './none': no such folder"):
        operators_key([{operator: {}}], without)
