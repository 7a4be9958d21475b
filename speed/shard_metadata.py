"""Cost of reporting one shard to Dagster: counts, distributions and gallery of a shard of clip_scores.

    python speed/shard_metadata.py [--rows 1000] [--repeat 20]

The step's process does this for one shard after another while workers process the next ones, so it limits the shards
per second of a run. Images are generated JPEG files of about 400 × 370 at 40 KB. Prints a line of JSON with the median
seconds of ``describe`` and of storing the event in a SQLite instance.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
from clip_scores import write_rows

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.records.schema import SCORED
from bettersynth_assets.reports.metadata import describe
from bettersynth_assets.stages.score import CLIP_SCORES
from bettersynth_assets.stages.seed import SEED_DATASET
from toolkit.tokens import kit_text


def _scores(work: Work) -> Result:
    """Return random scores; metadata does not depend on their source."""
    rows = work.rows("seed_dataset")
    scores = np.random.default_rng(0).normal(0.3, 0.04, rows.num_rows).astype(np.float32)
    rows = rows.append_column("clip_score", pa.array(scores))
    rows = rows.append_column("text_truncated", pa.array(np.zeros(len(scores), bool))).cast(SCORED)
    return Result(rows_in=rows.num_rows, kept=rows)


def _depends(run: ResolvedRun, shard: str, inputs: object) -> object:
    return None


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Seconds to report one shard to Dagster.")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths, captions = write_rows(root / "images", args.rows)
        with (root / "seed.jsonl").open("w") as file:
            for number, (path, caption) in enumerate(zip(paths, captions, strict=True)):
                text = kit_text(caption)
                file.write(json.dumps({"id": str(number), "text": text, "images": [f"images/{path.name}"]}) + "\n")
        settings = load_settings({"BETTERSYNTH_SEED": str(root / "seed.jsonl"), "BETTERSYNTH_DATA": str(root / "data")})
        settings = replace(settings, profile=settings.profile.model_copy(update={"shards": 1}))
        stage = Stage(
            name=CLIP_SCORES.name, version=1, run=_scores, depends=_depends, sharded=True, inputs=(SEED_DATASET.name,)
        )
        pipeline = Pipeline((SEED_DATASET, stage), ResolvedRun(settings), log=str)
        (manifest,) = pipeline.ensure_all(CLIP_SCORES.name)
        shown, stored = [], []
        with dg.instance_for_test(temp_dir=str(root)) as instance:
            for _ in range(args.repeat):
                start = time.perf_counter()
                metadata = describe(manifest, pipeline.run, rows=True)
                shown.append(time.perf_counter() - start)
                instance.report_runless_asset_event(dg.AssetMaterialization("clip_scores", metadata=metadata))
                stored.append(time.perf_counter() - start - shown[-1])
    print(
        json.dumps(
            {
                "rows": args.rows,
                "describe_s": round(statistics.median(shown), 4),
                "event_s": round(statistics.median(stored), 4),
                "cores": len(os.sched_getaffinity(0)),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
