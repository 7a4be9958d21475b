"""seed_dataset. In: one shard's lines of the seed file. Out: validated rows with size, words and mode; a quarantine.

A large seed file is read by worker processes: header parsing is nearly all Python, so threads would block each other.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.images.paths import Roots
from bettersynth_assets.records.input_files import Versions, input_versions
from bettersynth_assets.records.questions import check_questions
from bettersynth_assets.records.schema import QUARANTINE, SEED
from bettersynth_assets.records.seed_file import SeedLine, seed_index
from bettersynth_assets.records.seed_folders import check_folders
from bettersynth_assets.records.seed_ingest import Ingested, ingest
from bettersynth_assets.stages.rules import EVERY_ROW_SET
from bettersynth_assets.stages.world import prepare_seed
from toolkit.file_errors import patiently
from toolkit.worker_pools import repeated

NAME = "seed_dataset"
POOL_ROWS = 20_000
"""Minimum rows of a seed file for which starting worker processes is faster."""
MAX_WORKERS = 16


def seed_versions(run: ResolvedRun) -> Versions:
    """Return the versions of the seed and questions files, which must not change during a run."""
    return input_versions(run.seed)


def _depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    check_questions(run.seed)
    roots = run.image_roots
    return {
        "lines": seed_index(run.seed).digest(_number(shard), run.settings.profile.shards),
        "limits": run.seed.limits.key(),
        **({"image_roots": sorted(roots)} if roots else {}),
    }


def _run(work: Work) -> Result:
    seed, roots = work.run.seed, work.run.image_roots
    index, root, limits = seed_index(seed), seed.images, seed.limits
    number, shards = _number(work.shard), work.settings.profile.shards
    lines = list(index.lines(number, shards))

    def complete() -> Ingested:
        if len(index) < POOL_ROWS:
            ingested = ingest(lines, root, limits, roots, stage=NAME)
        else:
            following = list(index.lines(number + 1, shards)) if number + 1 < shards else []
            ingested = repeated(
                lambda: _pooled(lines, following, root, limits, roots),
                _replace_pool,
                f"{NAME} {work.shard}, {len(lines)} rows",
            )
        check_folders(ingested, index, limits)
        return ingested

    ingested = patiently(complete, root)
    return Result(rows_in=len(lines), kept=ingested.kept, quarantine=ingested.quarantine, stats=_stats(ingested.kept))


def _stats(kept: pa.Table) -> dict[str, Any]:
    flags = [flag for row_flags in kept["flags"].to_pylist() for flag in row_flags]
    return {
        "modes": _count(kept["mode"].to_pylist()),
        "formats": _count(kept["format"].to_pylist()),
        "flags": _count(flags),
        "image_bytes": pc.sum(kept["bytes"]).as_py() or 0,
    }


_ahead: list[tuple[list[SeedLine], Path, Limits, Roots, list[Future[Ingested]]]] = []
"""The next shard, if the workers have started it; at most one."""


def _pooled(lines: list[SeedLine], following: list[SeedLine], root: Path, limits: Limits, roots: Roots) -> Ingested:
    """Ingest in worker processes, which start the next shard while this one is written."""
    started = [futures for *arguments, futures in _ahead if arguments == [lines, root, limits, roots]]
    futures = started[0] if started else _begin(lines, root, limits, roots)
    _ahead[:] = [(following, root, limits, roots, _begin(following, root, limits, roots))] if following else []
    results = [future.result() for future in futures]
    return Ingested(
        kept=pa.concat_tables([SEED.empty_table(), *(result.kept for result in results)]),
        quarantine=pa.concat_tables([QUARANTINE.empty_table(), *(result.quarantine for result in results)]),
        existing=sum(result.existing for result in results),
        missing=sum(result.missing for result in results),
        missing_folders=sum((result.missing_folders for result in results), Counter()),
    )


def _begin(lines: list[SeedLine], root: Path, limits: Limits, roots: Roots) -> list[Future[Ingested]]:
    size = max(1, -(-len(lines) // (2 * _workers())))
    starts = range(0, len(lines), size)
    return [_pool().submit(ingest, lines[start : start + size], root, limits, roots, stage=NAME) for start in starts]


def _workers() -> int:
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


@cache
def _pool() -> ProcessPoolExecutor:
    """Return the process pool, shared by all shards. Spawned, because forking a process with threads can hang."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(_workers(), mp_context=context, initializer=_end_with_parent, initargs=(os.getpid(),))


def _replace_pool() -> None:
    """Drop a pool whose worker was killed, and the shard that it had started."""
    _ahead.clear()
    _pool().shutdown(wait=False, cancel_futures=True)
    _pool.cache_clear()


def _end_with_parent(parent: int) -> None:
    """End a worker whose parent was killed; otherwise it would wait forever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _number(shard: str) -> int:
    return int(shard.rpartition("-")[2])


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


SEED_DATASET = Stage(
    name=NAME,
    version=2,
    columns=SEED,
    rules=EVERY_ROW_SET,
    run=_run,
    depends=_depends,
    sharded=True,
    scope="seed",
    prepare=prepare_seed,
    files=seed_versions,
    libraries=("pillow",),
)
