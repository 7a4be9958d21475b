"""Runs and workers killed during ingest leave no process and no partial file, and the remaining work continues."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.stages import seed as seed_stage
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import toy_pipeline
from toolkit.jobs import run_all
from toolkit.worker_pools import WorkerKilledError

pytestmark = pytest.mark.slow

SHARDS = 40
CHILD = """
import sys
from pathlib import Path
from bettersynth_assets.stages import seed
from bettersynth_assets_tests.helpers.seeds import settings_for
from bettersynth_assets_tests.helpers.toy import toy_pipeline
seed.POOL_ROWS = 0
path, data, shards = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
toy_pipeline(settings_for(path, data, shards=shards)).ensure_all("seed_dataset")
"""


def wait_for(condition: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_run_leaves_no_worker_and_the_next_run_builds_only_missing_shards(tmp_path: Path) -> None:
    write_images(tmp_path, range(100))
    rows = [kit_row(number % 100, id=f"{number:05d}") for number in range(4000)]
    path, data = write_lines(tmp_path, [*rows]), tmp_path / "data"
    run = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(data), str(SHARDS)])
    wait_for(lambda: list(data.rglob("manifest.json")))
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    assert workers
    wait_for(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))
    settings = settings_for(path, data, shards=SHARDS)
    finished = [manifest.shard for manifest in toy_pipeline(settings).current("seed_dataset")]
    assert 0 < len(finished) < SHARDS
    after = toy_pipeline(settings)
    digests = [manifest.digest for manifest in after.ensure_all("seed_dataset")]
    assert sorted([*finished, *(manifest.shard for manifest in after.materialized)]) == settings.profile.shard_names()
    clean = toy_pipeline(settings_for(path, tmp_path / "clean", shards=SHARDS)).ensure_all("seed_dataset")
    assert digests == [manifest.digest for manifest in clean]


def test_a_killed_worker_is_replaced_and_its_shard_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, range(12))
    path = write_lines(tmp_path, [kit_row(number) for number in range(12)])
    alone = [item.digest for item in pipeline(path, tmp_path / "alone").ensure_all("seed_dataset")]
    monkeypatch.setattr(seed_stage, "POOL_ROWS", 0)
    pooled = pipeline(path, tmp_path / "pooled")
    digests = [pooled.ensure("seed_dataset", "shard-00000").digest]
    for process in list(seed_stage._pool()._processes.values()):
        process.kill()
        process.join()
    digests += [pooled.ensure("seed_dataset", shard).digest for shard in ("shard-00001", "shard-00002")]
    assert digests == alone

    seed_stage._replace_pool()
    monkeypatch.setattr(seed_stage, "_end_with_parent", os._exit)  # every worker exits when it starts
    with pytest.raises(WorkerKilledError, match=r"seed_dataset shard-00001, 4 rows: .* killed 3 times.* memory"):
        pipeline(path, tmp_path / "none").ensure("seed_dataset", "shard-00001")
    monkeypatch.undo()
    seed_stage._replace_pool()
    assert pipeline(path, tmp_path / "none").ensure("seed_dataset", "shard-00001").digest == alone[1]


def pipeline(path: Path, data: Path) -> Pipeline:
    return toy_pipeline(settings_for(path, data, shards=3))


def test_the_error_of_a_crashed_pool_names_the_likely_cause() -> None:
    with pytest.raises(WorkerKilledError, match=r"_exit of 2 plans: a worker process was killed.*memory"):
        run_all(os._exit, [1, 1], 2)
