"""A graph with the structure of the real one whose stages fail on request, for tests of worker processes.

``numbers`` and ``squares`` are sharded, ``total`` is of all squares, ``scaled`` is sharded and needs the total. Workers
process ``squares`` and ``scaled``. Faults are files in the data root, named ``<fault>-<stage>-<shard>``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.scheduler import ShardScheduler
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.errors import ConfigError
from bettersynth_assets_tests.helpers.seeds import settings_for

SHARDS = ["shard-00000", "shard-00001", "shard-00002", "shard-00003"]
POOLED = frozenset({"squares", "scaled"})
PATIENCE = 300.0


def _begin(work: Work, stage: str) -> None:
    """Record which process runs which shard, then follow the fault files in the data root."""
    root = work.settings.data_root
    mask, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
    with (root / "worked.txt").open("a") as file:
        file.write(f"{stage} {work.shard} {os.getpid()} {mask} {threads}\n")
    work.log(f"{stage} {work.shard} begins")
    here = f"{stage}-{work.shard}"
    if (root / f"die-once-{here}").exists():
        (root / f"die-once-{here}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (root / f"die-{here}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (root / f"break-{here}").exists():
        raise OSError(f"cannot read {work.shard}")
    if (root / f"refuse-{here}").exists():
        raise ConfigError("model path 'x' does not exist: set models.clip")
    if (root / f"meet-{here}").exists():  # until another shard is processed too
        other = (root / f"meet-{here}").read_text()
        until(lambda: f"{stage} {other} " in (root / "worked.txt").read_text())
    until(lambda: not (root / f"wait-{here}").exists())


def until(look, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.05)


def _numbers(work: Work) -> Result:
    _begin(work, "numbers")
    first = 10 * int(work.shard[-1])
    return Result(rows_in=3, kept=pa.table({"value": list(range(first, first + 3))}))


def _squares(work: Work) -> Result:
    _begin(work, "squares")
    values = [value * value for value in work.rows("numbers")["value"].to_pylist()]
    return Result(rows_in=3, kept=pa.table({"value": values}))


def _total(work: Work) -> Result:
    _begin(work, "total")
    total = sum(work.rows("squares")["value"].to_pylist())
    return Result(rows_in=1, kept=pa.table({"value": [total]}), stats={"total": total})


def _scaled(work: Work) -> Result:
    _begin(work, "scaled")
    values = [value / work.stats("total")["total"] for value in work.rows("squares")["value"].to_pylist()]
    return Result(rows_in=3, kept=pa.table({"value": values}))


def depends(settings: object, shard: str, inputs: object) -> object:
    return None


STAGES = (
    Stage(name="numbers", version=1, run=_numbers, depends=depends, sharded=True, scope="seed"),
    Stage(name="squares", version=1, run=_squares, depends=depends, sharded=True, inputs=("numbers",), scope="seed"),
    Stage(name="total", version=1, run=_total, depends=depends, sharded=False, inputs=("squares",), scope="seed"),
    Stage(name="scaled", version=1, run=_scaled, depends=depends, sharded=True, inputs=("squares", "total")),
)


def settings_of(root: Path, **gpu: object) -> Settings:
    root.mkdir(exist_ok=True)
    values = {"devices": "cpu", "workers": 2} | gpu
    return settings_for(root / "none.jsonl", root, shards=len(SHARDS), gpu=Gpu.parse(values, where="test"))


class Run:
    """One run of the graph by workers."""

    def __init__(self, root: Path, **gpu: object) -> None:
        self.root, self.log, self.failed = root, [], {}
        self.job = PipelineJob(stages=STAGES, leased=POOLED, run=ResolvedRun(settings_of(root, **gpu)))
        self.pipeline = self.job.pipeline(log=self.log.append)

    def prepare(self, name: str = "scaled", shards: list[str] = SHARDS) -> dict[str, str]:
        def attempt(name: str, shard: str) -> str | None:
            try:
                self.pipeline.ensure(name, shard)
            except OSError as error:
                return str(error)
            return None

        return ShardScheduler(pipeline=self.pipeline, pooled=POOLED, job=self.job, attempt=attempt).prepare(
            name, shards
        )

    def worked(self) -> list[tuple[str, ...]]:
        """(stage, shard, process, mask, threads) of each run of a stage's function, in order."""
        path = self.root / "worked.txt"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []

    def rows(self) -> dict[str, bytes]:
        """Return the bytes of each kept table by its path."""
        found = [manifest.path / "kept.parquet" for stage in STAGES for manifest in self.pipeline.current(stage.name)]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}
