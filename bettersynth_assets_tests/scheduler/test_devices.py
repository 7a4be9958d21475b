"""Devices of a profile: those that are there, or an error with the fix."""

from __future__ import annotations

import pytest
import torch

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.errors import DeviceError
from bettersynth_assets.scheduler.devices import resolve_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_uses_the_cpu_without_a_gpu(no_gpu: None) -> None:
    assert resolve_devices(Gpu()) == ["cpu"]


def test_a_requested_gpu_that_is_missing_is_an_error_with_the_fix(no_gpu: None) -> None:
    with pytest.raises(DeviceError, match=r"\[0, 1\] requests GPU 0, 1, .* no GPU: set `devices: cpu`"):
        resolve_devices(Gpu(devices=[0, 1]))


def test_auto_uses_all_gpus_and_a_list_uses_the_listed_ones(two_gpus: None) -> None:
    assert resolve_devices(Gpu()) == ["cuda:0", "cuda:1"]
    assert resolve_devices(Gpu(devices=[1])) == ["cuda:1"]
    assert resolve_devices(Gpu(devices="cpu")) == ["cpu"]
    with pytest.raises(DeviceError, match="requests GPU 2"):
        resolve_devices(Gpu(devices=[0, 2]))
