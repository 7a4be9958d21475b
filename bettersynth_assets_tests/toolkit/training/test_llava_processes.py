"""LLaVA training in two processes, plain and with DeepSpeed ZeRO-2, gives the results of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.spread_training import STAGES, assert_equal_to_rounding, run_all, write_plan
from toolkit.models.llava.tiny import save_tiny_llava

pytestmark = pytest.mark.slow

WAYS = {"one": 1, "two": 2, "zero2": 2, "one-token": 1, "two-token": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the rows have no image, so that a process often has a micro-batch without images."""
    folder = tmp_path_factory.mktemp("llava-processes")
    save_tiny_llava(folder / "base")
    write_rows(folder, pictures=8, text_only=8)
    for name in WAYS:
        average = "token" if name.endswith("-token") else "micro_batch"
        write_plan(
            folder, name, deepspeed=name == "zero2", per_device_batch=1, checkpoint_every=None, loss_average=average
        )
    run_all(folder, "all", [(name, processes, "none") for name, processes in WAYS.items()])
    return folder


@pytest.mark.parametrize(("way", "one"), [("two", "one"), ("zero2", "one"), ("two-token", "one-token")])
def test_two_processes_with_and_without_zero2_give_the_results_of_one(folder: Path, way: str, one: str) -> None:
    for stage in STAGES:
        manifest = json.loads((folder / way / stage / "manifest.json").read_text())
        assert manifest["processes"] == 2 and ("deepspeed" in manifest["versions"]) == (way == "zero2")
    assert_equal_to_rounding(folder / way, folder / one)
