"""A run that is killed hard while it ingests: no process stays, nothing half-written is seen, the next one finishes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from bettersynth_assets_tests.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.stages.toy import toy_pipeline

SHARDS = 40
CHILD = """
import sys
from pathlib import Path
from bettersynth_assets.stages import seed
from bettersynth_assets_tests.seeds import settings_for
from bettersynth_assets_tests.stages.toy import toy_pipeline
seed.POOL_ROWS = 0
path, data, shards = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
toy_pipeline(settings_for(path, data, shards=shards)).ensure_all("seed_dataset")
"""


def wait_for(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_killed_hard_leaves_no_worker_and_the_next_run_makes_only_what_is_missing(tmp_path: Path) -> None:
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
    assert sorted([*finished, *(manifest.shard for manifest in after.made)]) == settings.profile.shard_names()
    clean = toy_pipeline(settings_for(path, tmp_path / "clean", shards=SHARDS)).ensure_all("seed_dataset")
    assert digests == [manifest.digest for manifest in clean]
