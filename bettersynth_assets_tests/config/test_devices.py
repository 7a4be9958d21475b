from __future__ import annotations

import os
from importlib import import_module

import pytest
import torch

from bettersynth_assets.config.devices import model_fingerprint, model_path, resolve_devices
from bettersynth_assets.config.profile import Gpu, load_profile
from bettersynth_assets.errors import ConfigError, DeviceError
from bettersynth_assets.operators import stock
from bettersynth_assets.operators.data_juicer import operators_key


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_takes_the_cpu_where_there_is_no_gpu(no_gpu):
    assert resolve_devices(Gpu()) == ["cpu"]


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error_with_the_fix(no_gpu):
    with pytest.raises(DeviceError, match=r"\[0, 1\] asks for GPU 0, 1, .* no GPU: set `devices: cpu`"):
        resolve_devices(Gpu(devices=[0, 1]))


def test_auto_takes_every_gpu_and_a_list_takes_those(two_gpus):
    assert resolve_devices(Gpu()) == ["cuda:0", "cuda:1"]
    assert resolve_devices(Gpu(devices=[1])) == ["cuda:1"]
    assert resolve_devices(Gpu(devices="cpu")) == ["cpu"]
    with pytest.raises(DeviceError, match="asks for GPU 2"):
        resolve_devices(Gpu(devices=[0, 2]))


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "hf-hub:org/name", "hf-hub:recipes/name"])
def test_hub_ids_pass(name):
    assert model_path(name, role="clip") == name


@pytest.mark.parametrize("name", ["./weights", "/nowhere/clip", "recipes/clip", "a/b/c", "clip", "~/no-such-model"])
def test_a_local_path_with_nothing_there_is_named_with_the_fix(name):
    with pytest.raises(ConfigError, match=r"models\.clip = .*no such folder"):
        model_path(name, role="clip")


def test_the_fingerprint_follows_contents_and_names_and_not_the_place_or_the_time(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    os.utime(second / "model.safetensors", (1, 1))
    assert model_fingerprint(str(first), role="clip") == model_fingerprint(str(second), role="clip")
    (second / "model.safetensors").write_bytes(b"Weights")
    assert model_fingerprint(str(first), role="clip") != model_fingerprint(str(second), role="clip")
    before = model_fingerprint(str(first), role="clip")
    (first / "model.safetensors").rename(first / "other.safetensors")
    assert model_fingerprint(str(first), role="clip") != before


def test_the_fingerprint_of_a_hub_id_is_the_id():
    assert model_fingerprint("org/name", role="clip") == "org/name"


@pytest.mark.parametrize(
    ("role", "key_of"),
    [("clip", "clip_score.scorer_key"), ("captioner", "captioner.captioner_key")],
)
def test_a_missing_model_is_named_by_its_own_key(role: str, key_of: str) -> None:
    profile = load_profile("miniature")
    without = profile.model_copy(update={"models": profile.models.model_copy(update={role: "./none"})})
    module, name = key_of.split(".")
    with pytest.raises(ConfigError, match=rf"^models\.{role} = './none': no such folder"):
        getattr(import_module(f"bettersynth_assets.models.{module}"), name)(without)


@pytest.mark.parametrize(
    ("operator", "role"),
    # phrase_grounding_recall_filter asks for NLTK data first, which the miniature has not.
    [
        *((spec.name, spec.model.role) for spec in stock.SPECS if spec.model and spec.model.role != "grounding"),
        ("clip_score_filter", "clip"),
        ("kmeans_diversity_selector", "clip"),
    ],
)
def test_a_missing_model_of_an_operator_is_named_by_its_own_key(operator: str, role: str) -> None:
    profile = load_profile("miniature")
    without = profile.model_copy(update={"models": profile.models.model_copy(update={role: "./none"})})
    with pytest.raises(ConfigError, match=rf"^models\.{role} = './none': no such folder"):
        operators_key([{operator: {}}], without)
