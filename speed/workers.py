"""clip_scores on 1, 2, 4 … workers against the same shards in one process: rows/s, ratios, fixed costs.

    python speed/workers.py [--workers 1 2 4] [--rows 2048] [--shards 16] [--model vit-b-32] [--batch 64]
        [--dtype bfloat16] [--decode nvjpeg] [--compiled] [--pool ray]

Weights are random, of the named model's real size; images are generated JPEG files of about 400 × 370 at 40 KB. With
GPUs each worker has one, and larger numbers of workers are skipped; without GPUs the workers share the cores. Keys,
tables and manifests are handled as in a run of the graph; only Dagster is not imported. Prints a line of JSON per
number of workers; 0 is this process, where libraries are already imported:

    first_shard_s   from the call to the first manifest: start workers, import torch, load the model, process a shard
    rows_per_s      of all rows, including the start
    steady          rows/s after every worker has finished its first shard; None if there are too few shards
    stage_s         mean seconds of the stage's function per shard, once warm
    overhead_s      additional seconds of a worker per shard: inputs, key, tables, manifest, waiting for the parent
    cpu_s           CPU seconds, including the start; comparable even if other jobs load the cores
    kept            sha256 over the kept tables; the same in all lines
    usage           usage in the metadata of the last shard; ``gpu_utilization`` is the mean of all shards

The last line has the steady rows/s as ratios to this process, and ``ready_s``: from starting a worker until it is
ready, before torch is imported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from clip_scores import SIZES, write_model, write_rows

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.job import PipelineJob
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.scheduler import task_of
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.scheduler.back_ends import open_pool
from bettersynth_assets.scheduler.dispatcher import run_shards
from bettersynth_assets.scheduler.lease import visible_devices
from bettersynth_assets.scheduler.local_pool import LocalPool
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from toolkit.tokens import kit_text

# Library versions only enter the keys; libraries that this measurement does not use need not be installed.
STAGES = (replace(SEED_DATASET, libraries=()), replace(CLIP_SCORES, libraries=()))


def write_project(root: Path, args: argparse.Namespace) -> Settings:
    """Write model, images and seed file; return settings that name them."""
    write_model(root / "clip", SIZES[args.model])
    paths, captions = write_rows(root / "images", args.rows)
    with (root / "seed.jsonl").open("w") as file:
        for number, (path, caption) in enumerate(zip(paths, captions, strict=True)):
            text = kit_text(caption)
            file.write(json.dumps({"id": str(number), "text": text, "images": [f"images/{path.name}"]}) + "\n")
    settings = load_settings({"BETTERSYNTH_SEED": str(root / "seed.jsonl"), "BETTERSYNTH_DATA": str(root / "data")})
    models = settings.profile.models.model_copy(update={"clip": str(root / "clip")})
    gpu = Gpu(dtype=args.dtype, clip_batch=args.batch, decode=args.decode, compiled=args.compiled)
    profile = settings.profile.model_copy(update={"models": models, "gpu": gpu, "shards": args.shards})
    return replace(settings, profile=profile)


def seconds_to_ready(settings: Settings) -> float:
    """Start one worker, measure the time until it is ready, and stop it."""
    pool = LocalPool(PipelineJob(stages=STAGES, leased=frozenset(), run=ResolvedRun(settings)))
    start = time.perf_counter()
    worker = pool.start(0)
    message = None
    while message is None and pool.wait([worker], 60.0):
        message = worker.message()
        if message is None and worker.exit_reason(0) is not None:
            break
    seconds = time.perf_counter() - start
    worker.end()
    if message is None:
        raise SystemExit("the worker ended before it was ready")
    return round(seconds, 2)


def measure(settings: Settings, workers: int, pool: str) -> dict[str, Any]:
    """Process all shards of clip_scores from the existing seed rows; 0 workers: in this process."""
    folder = settings.shared_root / CLIP_SCORES.name
    if folder.exists():
        folder.rename(folder.with_name(f"before-{time.time_ns()}"))
    gpu = settings.profile.gpu.model_copy(update={"workers": workers or 1, "pool": pool})
    settings = replace(settings, profile=settings.profile.model_copy(update={"gpu": gpu}))
    job = PipelineJob(stages=STAGES, leased=frozenset({CLIP_SCORES.name}), run=ResolvedRun(settings))
    start = time.perf_counter()
    events: list[tuple[float, Manifest]] = []
    pipeline = job.pipeline(
        log=lambda text: None, on_materialized=lambda manifest: events.append((time.perf_counter() - start, manifest))
    )
    shards, cpu = settings.profile.shard_names(), _cpu_seconds()
    if workers == 0:
        pipeline.ensure_all(CLIP_SCORES.name)
    else:
        name = CLIP_SCORES.name
        with open_pool(job) as workers_pool:
            failed = run_shards(
                workers_pool,
                name,
                shards,
                task_of=lambda shard: task_of(pipeline, name, shard),
                on_result=pipeline.record,
                log=lambda line: None,
            )
        if failed:
            raise SystemExit(f"failed: {failed}")
    cpu = round(_cpu_seconds() - cpu, 1)
    digest = hashlib.sha256(
        b"".join((item.path / "kept.parquet").read_bytes() for item in pipeline.current("clip_scores"))
    )
    utilizations = [manifest.usage["gpu_utilization"] for _, manifest in events if "gpu_utilization" in manifest.usage]
    usage = events[-1][1].usage | (
        {"gpu_utilization": round(fmean(utilizations), 1), "shards_with_it": len(utilizations)} if utilizations else {}
    )
    return {"workers": workers, **figures(events), "cpu_s": cpu, "kept": digest.hexdigest()[:16], "usage": usage}


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its terminated children, including all workers."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def figures(events: list[tuple[float, Manifest]]) -> dict[str, Any]:
    """Compute the figures listed in the module docstring."""
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for at, manifest in events:
        by_worker.setdefault(manifest.usage["process"], []).append((at, manifest.seconds))
    begin, finish = max(times[0][0] for times in by_worker.values()), events[-1][0]
    rows = sum(manifest.rows_in for at, manifest in events if at > begin)
    warm = [
        (at - previous, seconds) for times in by_worker.values() for (previous, _), (at, seconds) in pairwise(times)
    ]
    return {
        "first_shard_s": round(events[0][0], 2),
        "rows_per_s": round(sum(manifest.rows_in for _, manifest in events) / finish, 1),
        "steady": round(rows / (finish - begin), 1) if rows else None,
        "stage_s": round(fmean(seconds for _, seconds in warm), 3) if warm else None,
        "overhead_s": round(fmean(gap - seconds for gap, seconds in warm), 4) if warm else None,
    }


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Rows per second of clip_scores by number of workers.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--model", choices=SIZES, default="vit-b-32")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--decode", choices=["pillow", "nvjpeg"], default="pillow")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--pool", choices=["local", "ray"], default="local")
    parser.add_argument("--batch", type=lambda size: size if size == "auto" else int(size), default=64)
    args = parser.parse_args()
    gpus = len(visible_devices())
    with tempfile.TemporaryDirectory() as root:
        settings = write_project(Path(root), args)
        PipelineJob(stages=STAGES, leased=frozenset(), run=ResolvedRun(settings)).pipeline(log=str).ensure_all(
            SEED_DATASET.name
        )
        counts = [workers for workers in args.workers if not gpus or workers <= gpus]
        results, start_seconds = [], seconds_to_ready(settings)
        for workers in (0, *counts):
            results.append(measure(settings, workers, args.pool))
            print(json.dumps(results[-1]), flush=True)
    alone = results[0]["steady"]
    ratios = {result["workers"]: round(result["steady"] / alone, 2) for result in results if result["steady"] and alone}
    where = {"gpus": gpus, "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    same = len({result["kept"] for result in results}) == 1
    print(
        json.dumps({**vars(args), **where, "ratio_to_one_process": ratios, "ready_s": start_seconds, "same_rows": same})
    )


if __name__ == "__main__":
    main()
