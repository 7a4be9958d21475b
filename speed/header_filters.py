"""Filters that need an image's header only: our filters against Data-Juicer's, which decode, in one run.

    python speed/header_filters.py [--rows 40000] [--peer-rows 1000]

The rows of a recipe carry width, height and file size since the seed file was read, so the time of reading the headers
is also reported. ``decoding`` is Data-Juicer's shape filter; its size filter only asks the file system. Images are
generated JPEG files of about 400 × 370 at 40 KB. Prints one line of JSON per operator.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from clip_scores import write_rows

from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import Limits, load_profile
from bettersynth_assets.images.headers import read_header
from bettersynth_assets.operators.data_juicer import build_operators
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import operator_environment
from bettersynth_assets.records.schema import SCORED

ENTRIES: list[dict[str, Any]] = [
    {"image_shape_filter": {"min_width": 400, "max_width": 769, "min_height": 335, "max_height": 769}},
    {"image_aspect_ratio_filter": {"min_ratio": 0.9, "max_ratio": 1.3}},
    {"image_size_filter": {"min_size": "38 KiB"}},
]


def seed_rows(paths: list[Path], captions: list[str], limits: Limits) -> tuple[pa.Table, float]:
    """Return rows as in the output of ``clip_scores``, and the seconds for reading the headers."""
    start = time.perf_counter()
    headers = [read_header(path, limits) for path in paths]
    seconds = time.perf_counter() - start
    rows = [
        {
            "id": str(number), "line": number + 1, "image": str(path), "caption": caption, "width": header.width,
            "height": header.height, "words": 1, "mode": "RGB", "format": "JPEG", "bytes": path.stat().st_size,
            "flags": [], "clip_score": 0.3, "text_truncated": False,
        }
        for number, (path, caption, header) in enumerate(zip(paths, captions, headers, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SCORED), seconds


def by_data_juicer(operator: Any, table: pa.Table) -> tuple[list[str], float]:
    """Run Data-Juicer's operator row by row; return the ids that it keeps, and its seconds."""
    kept_rows = []
    with operator_environment():
        start = time.perf_counter()
        for row in table.select(["id", "image"]).to_pylist():
            batch = {"text": [""], "images": [[row["image"]]], "__dj__stats__": [{}], "__dj__meta__": [{}]}
            if bool(next(iter(operator.process(operator.compute_stats(batch))))):
                kept_rows.append(row["id"])
        return kept_rows, time.perf_counter() - start


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Rows per second of header-only filters, ours against Data-Juicer's.")
    parser.add_argument("--rows", type=int, default=40000)
    parser.add_argument("--peer-rows", type=int, default=1000, help="rows for Data-Juicer's operators")
    args = parser.parse_args()
    profile = load_profile("miniature")
    decoding = 0.0
    with tempfile.TemporaryDirectory() as root:
        paths, captions = write_rows(Path(root, "images"), args.rows)
        table, reading = seed_rows(paths, captions, profile.limits)
        for entry in ENTRIES:
            (built,) = build_operators([entry], OperatorModels(profile.models), profile.gpu, device="cpu")
            processed = run_process(table, [built], stage="benchmark", image_root=Path("/"), rescore=None)
            start = time.perf_counter()
            processed = run_process(table, [built], stage="benchmark", image_root=Path("/"), rescore=None)
            seconds = time.perf_counter() - start
            sample = table.slice(0, args.peer_rows)
            data_juicer_rows, peer_seconds = by_data_juicer(built.operator, sample)
            project_rows = [row_id for row_id in processed.kept["id"].to_pylist() if int(row_id) < sample.num_rows]
            peer = sample.num_rows / peer_seconds
            decoding = decoding or peer  # set by the shape filter, the first one
            filtering = processed.operators[0]["rows_in"] / processed.operators[0]["seconds"]
            total = table.num_rows / (seconds + reading)
            result = {
                "operator": built.name, "cores": len(os.sched_getaffinity(0)), "rows": table.num_rows,
                "kept": processed.kept.num_rows, "same_rows_kept": project_rows == data_juicer_rows,
                "data_juicer_rows_per_s": round(peer),
                "filter_rows_per_s": round(filtering), "ratio_to_decoding": round(filtering / decoding, 1),
                "with_tables_rows_per_s": round(table.num_rows / seconds),
                "with_tables_ratio_to_decoding": round(table.num_rows / seconds / decoding, 1),
                "with_headers_too_rows_per_s": round(total),
                "with_headers_too_ratio_to_decoding": round(total / decoding, 1),
            }  # fmt: skip
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
