from __future__ import annotations

import os

import pytest
import torch

from bettersynth_assets.config.devices import model_fingerprint, model_path, resolve_devices
from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.errors import ConfigError, DeviceError


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
    assert model_path(name) == name


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
    assert model_fingerprint(str(first)) == model_fingerprint(str(second))
    (second / "model.safetensors").write_bytes(b"Weights")
    assert model_fingerprint(str(first)) != model_fingerprint(str(second))
    before = model_fingerprint(str(first))
    (first / "model.safetensors").rename(first / "other.safetensors")
    assert model_fingerprint(str(first)) != before


def test_the_fingerprint_of_a_hub_id_is_the_id():
    assert model_fingerprint("org/name") == "org/name"
