"""Full or read-only disks, and paths that block a folder; on real mounts if this user may mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bettersynth_assets.config.recipe import load_recipe
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.errors.storage import StorageError
from bettersynth_assets.miniature.generate import generate_world
from bettersynth_assets.reports.summary import write_summary
from bettersynth_assets_tests.helpers.killed_storage import run, settings_of, snapshot, stages
from bettersynth_assets_tests.helpers.seeds import settings_for
from bettersynth_assets_tests.helpers.small_world import FEWEST
from toolkit.file_errors import EnvironmentFault
from toolkit.models.mgm.tiny import tiny_mgm
from toolkit.tensor_files import save_tensors, writing

WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.truncate", "os.chmod", "os.utime"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_world_that_does_not_fit_on_the_disk_is_named_and_leaves_no_files(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=rf"{small_disk}.*: no space left on the disk"):
        generate_world(small_disk / "world", rows=400, sizes=FEWEST, workers=1)
    assert list(small_disk.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_named(small_disk: Path) -> None:
    model = tiny_mgm()
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk) - 20_000))
    with pytest.raises(EnvironmentFault, match=rf"{small_disk}/model/model\.safetensors: .*free space"):
        model.save_pretrained(small_disk / "model")
    tensors = {"a": torch.zeros(30_000)}
    with pytest.raises(EnvironmentFault, match=rf"{small_disk}/weights\.safetensors: .*free space"):
        save_tensors(tensors, small_disk / "weights.safetensors")
    with pytest.raises(EnvironmentFault, match="optimizer"), writing(small_disk / "optimizer.pt"):
        torch.save(tensors, small_disk / "optimizer.pt")
    assert not list(small_disk.rglob(".*.partial"))


def rows_pipeline(root: Path) -> Pipeline:
    """Two shards of 300 kB each."""

    def rows(work: Work) -> Result:
        values = np.random.default_rng(int(work.shard[-1])).random(40_000)
        return Result(rows_in=len(values), kept=pa.table({"value": values}))

    def nothing(*_: Any) -> None:
        return None

    stage = Stage(name="rows", version=1, run=rows, depends=nothing, sharded=True)
    return Pipeline(
        [stage], ResolvedRun(settings_for(root / "none.jsonl", root / "data", shards=2)), log=lambda line: None
    )


def test_a_full_disk_is_named_and_leaves_finished_shards_and_no_partial_file(small_disk: Path) -> None:
    first = rows_pipeline(small_disk).ensure("rows", "shard-00000")
    before = snapshot(first.path.parent)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(small_disk_free(small_disk) - 100_000))
    with pytest.raises(
        StorageError, match=r"shard-00001.*: no space left on the disk.* free space.* run again"
    ) as error:
        rows_pipeline(small_disk).ensure_all("rows")
    assert "\n" not in str(error.value)
    assert snapshot(first.path.parent) == before
    assert not list(small_disk.rglob(".*.partial"))
    assert [item.shard for item in rows_pipeline(small_disk).current("rows")] == ["shard-00000"]
    filler.unlink()
    pipeline = rows_pipeline(small_disk)
    assert [len(item.table()) for item in pipeline.ensure_all("rows")] == [40_000, 40_000]
    assert [item.shard for item in pipeline.materialized] == ["shard-00001"]


def small_disk_free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_an_up_to_date_read_only_data_root_can_be_used(small_disk: Path) -> None:
    settings = settings_of(small_disk)
    run(small_disk, 1, settings)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    pipeline = Pipeline(stages(1), ResolvedRun(settings))
    assert pipeline.ensure("trained").verify() is None
    assert pipeline.materialized == []
    with pytest.raises(StorageError, match=r"numbers/shard-00000.*read-only.*BETTERSYNTH_DATA"):
        Pipeline(stages(2), ResolvedRun(settings)).ensure("trained")


def test_a_broken_link_on_a_read_only_disk_does_not_stop_readers(small_disk: Path) -> None:
    settings = settings_of(small_disk)
    run(small_disk, 1, settings)
    for link in small_disk.rglob("current"):
        link.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert Pipeline(stages(1), ResolvedRun(settings)).up_to_date_shard("trained") is not None


def test_a_summary_is_collected_even_if_it_cannot_be_written(small_disk: Path) -> None:
    settings = settings_of(small_disk)
    first = write_summary(settings)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    other = write_summary(replace(settings, recipe=load_recipe("clip_top_k")))
    assert (first["recipe"], other["recipe"]) == ("third_place", "clip_top_k")
    assert json.loads((settings.recipe_root / "summary.json").read_text()) == first


def test_checking_an_up_to_date_set_writes_nothing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    run(tmp_path, 1, settings)
    for lock in tmp_path.rglob(".lock"):
        lock.unlink()
    child = os.fork()
    if child == 0:  # hooks cannot be removed from a process

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            is_write = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if is_write and str(arguments[0]).startswith(str(tmp_path)):
                os._exit(9)

        sys.addaudithook(hook)
        try:
            done = not Pipeline(stages(1), ResolvedRun(settings)).ensure_all("trained")[0].faults()
        finally:
            os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(tmp_path.rglob(".lock"))


@pytest.mark.parametrize("level", ["numbers/shard-00000", "numbers"])
def test_a_dangling_link_in_place_of_a_folder_is_named(tmp_path: Path, level: str) -> None:
    settings = settings_of(tmp_path)
    link = settings.shared_root / level
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match=rf"{level} is a link to .*gone, which does not exist.* move it away"):
        Pipeline(stages(1), ResolvedRun(settings)).ensure("trained")


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    settings.shared_root.mkdir(parents=True)
    (settings.shared_root / "numbers").write_text("x")
    with pytest.raises(StorageError, match=r"shared/numbers is a file, but a folder is needed there"):
        Pipeline(stages(1), ResolvedRun(settings)).ensure("trained")
