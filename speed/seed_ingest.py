"""Speed of validating and sharding a seed file, against a plain loop. Out: seconds, rows/s, peak memory.

The seed file is generated: one small JPEG file (336 to 768 px a side, a few KB) per row, in folders of 100 as in the
real one. Files repeat 64 generated images byte for byte, since only headers are read. The page cache is warm, because
the files have just been written. Memory is the sum over this process and its workers, sampled once a second.

    python speed/seed_ingest.py --rows 400000
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from PIL import Image

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.stages.seed import SEED_DATASET
from toolkit.tokens import kit_text

WORDS = ("a", "small", "red", "round", "old", "boat", "dog", "tree", "house", "stands", "near", "the", "lake", "street")


def write_seed(root: Path, rows: int) -> Path:
    """Write the seed file and its images; return its path."""
    choose = random.Random(0)
    drawn = [_jpeg(choose) for _ in range(64)]
    seed_file = root / "seed.jsonl"
    with seed_file.open("w") as file:
        for number in range(rows):
            row_id = f"{number:09d}"
            image = f"images/{row_id[:7]}/{row_id}.jpg"
            if number % 100 == 0:
                (root / image).parent.mkdir(parents=True)
            (root / image).write_bytes(drawn[number % len(drawn)])
            caption = " ".join(choose.choices(WORDS, k=choose.randint(4, 14)))
            text = kit_text(caption)
            file.write(json.dumps({"id": row_id, "text": text, "images": [image]}) + "\n")
    return seed_file


def _jpeg(choose: random.Random) -> bytes:
    size = (choose.randint(336, 768), choose.randint(336, 768))
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class PeakMemory:
    """Peak resident memory of this process and its children in bytes, while the block runs."""

    def __enter__(self) -> PeakMemory:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        # Listing children iterates over all processes of the machine, so it is done rarely; the workers do not change.
        while not self._done.wait(1):
            memory = 0
            for process in own_processes():
                try:
                    memory += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, memory)


def own_processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def processor_seconds() -> float:
    """CPU time so far of this process and its workers; hardly affected by other jobs, unlike wall-clock time."""
    times = [process.cpu_times() for process in own_processes()]
    return sum(time.user + time.system for time in times)


def plain_loop(seed_file: Path, rows: int, use: Callable[[Image.Image], object]) -> float:
    """Rows/s of a minimal loop (json, Pillow, row by row) that validates and writes nothing."""
    start = time.monotonic()
    with seed_file.open() as file:
        for _, line in zip(range(rows), file, strict=False):
            with Image.open(seed_file.parent / json.loads(line)["images"][0]) as image:
                use(image)
    return rows / (time.monotonic() - start)


def measure(settings: Settings, seed_file: Path, rows: int) -> dict[str, float]:
    """Ingest twice, then run the plain loops on the first rows."""
    with PeakMemory() as memory:
        start, processor_before = time.monotonic(), processor_seconds()
        manifests = Pipeline([SEED_DATASET], ResolvedRun(settings)).ensure_all(SEED_DATASET.name)
        seconds, processor = time.monotonic() - start, processor_seconds() - processor_before
    start = time.monotonic()
    Pipeline([SEED_DATASET], ResolvedRun(settings)).ensure_all(SEED_DATASET.name)
    second_run = time.monotonic() - start
    sample = min(rows, 20_000)
    headers = plain_loop(seed_file, sample, lambda image: image.verify())
    decoding = plain_loop(seed_file, min(sample, 4000), lambda image: image.load())
    return {
        "rows": rows,
        "kept": sum(manifest.kept for manifest in manifests),
        "shards": len(manifests),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "rows_per_second": round(rows / seconds),
        "peak_memory_gb": round(memory.peak / 1e9, 2),
        "seconds_when_nothing_changed": round(second_run, 1),
        "plain_loop_headers_rows_per_second": round(headers),
        "plain_loop_decoding_rows_per_second": round(decoding),
        "times_plain_loop_headers": round(rows / seconds / headers, 2),
        "times_plain_loop_decoding": round(rows / seconds / decoding, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="folder of the temporary seed file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seed_file = write_seed(Path(folder), args.rows)
        settings = load_settings({"BETTERSYNTH_SEED": str(seed_file), "BETTERSYNTH_DATA": f"{folder}/data"})
        profile = settings.profile.model_copy(update={"shards": args.shards})
        print(json.dumps(measure(replace(settings, profile=profile), seed_file, args.rows), indent=1))


if __name__ == "__main__":
    main()
