"""Time of a run that finds a set up to date. In: shards and rows. Out: one JSON line.

    python speed/up_to_date.py --shards 400 --rows 1000 --embedding 512

Builds two sets with the structure of seed_dataset and clip_scores (a row of text and numbers, an embedding per row) in
a temporary folder. Then a new pipeline checks all shards, hashing every file, and again in the same process, where the
hashes are known. Reports the best of three in CPU seconds, because files are in the page cache and other jobs may run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from toolkit import files
from toolkit.files import write_atomically


def rows(work: Work, *, count: int) -> Result:
    """Return rows of about 150 bytes."""
    rng = np.random.default_rng(int(work.shard[-5:]))
    ids = [f"{work.shard}-{number}" for number in range(count)]
    captions = [f"a picture of {number} things on a table {number % 17}" for number in rng.integers(0, 9e9, count)]
    return Result(rows_in=count, kept=pa.table({"id": ids, "caption": captions, "bytes": rng.integers(0, 9e6, count)}))


def embeddings(work: Work, *, width: int) -> Result:
    """Return the same rows, with a float32 embedding of each in a file next to them."""
    table = work.rows("rows")
    content = BytesIO()
    np.save(content, np.random.default_rng(0).random((table.num_rows, width), np.float32))
    write_atomically(work.folder / "embeddings.npy", content.getvalue())
    return Result(rows_in=table.num_rows, kept=table, files=("embeddings.npy",))


def nothing(*_: Any) -> None:
    """Return no dependencies."""


def pipeline(root: Path, args: argparse.Namespace) -> Pipeline:
    """Build both sets over all shards."""
    stages = [
        Stage(name="rows", version=1, run=partial(rows, count=args.rows), depends=nothing, sharded=True),
        Stage(name="embeddings", version=1, run=partial(embeddings, width=args.embedding), depends=nothing,
              sharded=True, inputs=("rows",)),
    ]  # fmt: skip
    settings = load_settings({"BETTERSYNTH_SEED": str(root / "none.jsonl"), "BETTERSYNTH_DATA": str(root)})
    profile = settings.profile.model_copy(update={"shards": args.shards})
    return Pipeline(stages, ResolvedRun(replace(settings, profile=profile)), log=lambda line: None)


def look(root: Path, args: argparse.Namespace) -> float:
    """Return the CPU seconds of checking every shard."""
    start, checked = time.process_time(), pipeline(root, args)
    assert all(checked.up_to_date_shard("embeddings", shard) for shard in checked.shards("embeddings"))
    return round(time.process_time() - start, 2)


def main() -> int:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Time a run that finds everything up to date.")
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--rows", type=int, default=1000, help="rows per shard")
    parser.add_argument("--embedding", type=int, default=512, help="dimension of the embeddings")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pipeline(root, args).ensure_all("embeddings")
        written = [path for path in root.rglob("v-*/*") if path.is_file()]
        megabytes = round(sum(path.stat().st_size for path in written) / 1e6, 1)
        first, second = [], []
        for _ in range(3):
            files._sha256_of_state.cache_clear()
            first.append(look(root, args))
            second.append(look(root, args))
    figures = {
        "files": len(written),
        "megabytes": megabytes,
        "cpu_seconds": min(first),
        "cpu_seconds_again": min(second),
    }
    print(json.dumps({**vars(args), **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
