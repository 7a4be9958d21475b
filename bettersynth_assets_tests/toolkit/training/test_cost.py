"""Cost of a phase: counts of its exposures, measurements over processes and resumptions. The GPU is simulated."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bettersynth_assets_tests.helpers.llava_rows import PROCESSOR
from toolkit import resource_usage
from toolkit.data.exposures import Exposures
from toolkit.data.llava import read_llava
from toolkit.data.rows import encode_rows
from toolkit.training import cost
from toolkit.training.cost import Meter, exposure_counts

CPU = torch.device("cpu")


def test_repeated_rows_count_as_exposures_and_their_tokens_each_time(world: Path) -> None:
    rows = encode_rows(read_llava(world / "data.json", world / "images"), PROCESSOR)
    order = [0, 1, 1, 3, 0, 1, 2, 2]
    exposures = Exposures(rows, order, global_batch=4, per_device_batch=2, processes=1, group=None)
    tokens = sum(int((rows.encoded(at)[1] >= 0).sum()) for at in order)
    assert exposure_counts(exposures) == {"exposures": 8, "unique_rows": 4, "supervised_tokens": tokens}


def test_rows_of_equal_content_count_once(world: Path) -> None:
    samples = read_llava(world / "data.json", world / "images")
    rows = encode_rows([samples[0], samples[1], samples[0]], PROCESSOR)
    exposures = Exposures(rows, [0, 1, 2], global_batch=3, per_device_batch=3, processes=1, group=None)
    assert exposure_counts(exposures)["unique_rows"] == 2


def test_values_before_a_checkpoint_are_added_and_peaks_are_the_largest() -> None:
    before: cost.Values = {
        "seconds": 100.0, "gpu_seconds": 0.0, "peak_rss_gib": 5000.0, "gpu_peak_gib": None, "energy_joules": None,
    }  # fmt: skip
    found = Meter(CPU, 1, before).read()
    assert found["seconds"] is not None and 100 < found["seconds"] < 160
    assert (found["peak_rss_gib"], found["gpu_seconds"], found["energy_joules"]) == (5000.0, 0.0, None)
    fresh = Meter(CPU, 1, None).read()
    assert fresh["peak_rss_gib"] is not None and 0 < fresh["peak_rss_gib"] < 5000


def test_energy_and_peaks_are_combined_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter([10.0, 25.0])
    monkeypatch.setattr(cost, "gpu_energy_joules", lambda device: next(counter))

    def gather(mine: list[Any]) -> list[Any]:
        return [*mine, {"peak_rss_gib": 9000.0, "gpu_peak_gib": None, "energy_joules": 7.0}]

    monkeypatch.setattr(cost, "gather_object", gather)
    found = Meter(CPU, 2, None).read()
    assert (found["energy_joules"], found["peak_rss_gib"]) == (22.0, 9000.0)


def test_the_energy_of_a_gpu_is_read_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = {"GPU-12ab": 3}
    nvml = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=handles.__getitem__, NVMLError=RuntimeError,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1000 * handle,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12ab"))
    assert resource_usage.gpu_energy_joules(torch.device("cuda:1")) == 3.0
    assert resource_usage.gpu_energy_joules(CPU) is None

    def no_counter(handle: int) -> int:
        raise RuntimeError("not supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = no_counter
    assert resource_usage.gpu_energy_joules(torch.device("cuda:1")) is None
