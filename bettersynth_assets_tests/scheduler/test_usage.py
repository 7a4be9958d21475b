"""Memory and GPU usage per shard is reported, and nothing depends on it. The GPU is simulated."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from bettersynth_assets.scheduler import usage
from bettersynth_assets.scheduler.usage import measured
from bettersynth_assets_tests.helpers.worker_graph import Run, until


def test_peak_memory_is_that_of_the_block():
    with measured() as large:
        assert np.ones(40_000_000).sum() == 40_000_000  # 0.3 GiB
    with measured() as small:
        pass
    assert large["peak_rss_gib"] - small["peak_rss_gib"] > 0.2
    assert "gpu" not in small


def test_a_gpu_is_named_with_its_peak_and_mean_utilization(monkeypatch):
    readings = [60, 20]
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda: None,
        get_device_name=lambda: "GPU X",
        max_memory_allocated=lambda: 3 * 2**30,
        utilization=lambda: readings.pop() if readings else _missing(),
    )
    monkeypatch.setattr(usage, "_cuda", lambda: cuda)
    monkeypatch.setattr(usage, "SECONDS_BETWEEN_SAMPLES", 0.01)
    with measured() as found:
        until(lambda: not readings)
    assert (found["gpu"], found["gpu_peak_gib"], found["gpu_utilization"]) == ("GPU X", 3.0, 40.0)


def test_without_the_nvml_package_only_utilization_is_missing(monkeypatch):
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda: None,
        get_device_name=lambda: "GPU X",
        max_memory_allocated=lambda: 0,
        utilization=lambda: _missing(),
    )
    monkeypatch.setattr(usage, "_cuda", lambda: cuda)
    with measured() as found:
        pass
    assert found["gpu"] == "GPU X"
    assert "gpu_utilization" not in found


def _missing() -> float:
    raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")


def test_usage_is_in_the_manifest_and_in_no_key_or_digest(tmp_path):
    run = Run(tmp_path)
    before = run.pipeline.ensure("squares", "shard-00000")
    assert before.usage["peak_rss_gib"] > 0
    run.pipeline.slot("squares", "shard-00000").commit(replace(before, usage={"gpu": "another"}))
    again = Run(tmp_path)
    found = again.pipeline.ensure("squares", "shard-00000")
    assert again.pipeline.materialized == []
    assert (found.key, found.digest, found.usage) == (before.key, before.digest, {"gpu": "another"})
