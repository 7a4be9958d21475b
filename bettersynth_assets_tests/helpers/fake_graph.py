"""A graph of three tiny stages with real manifests, for tests of the code around the stages."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import yaml

from bettersynth_assets.defs.cards import Card
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Stage, Work
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.input_files import Versions, input_versions
from bettersynth_assets.records.schema import QUARANTINE, SEED, rows_table
from bettersynth_assets.stages import rules
from toolkit.file_errors import patiently

ROWS = 5


def _rows(work: Work) -> Result:
    """Return five rows per shard, one of them quarantined; a file named after the shard makes it fail."""
    broken = work.settings.data_root / f"break-{work.shard}"
    if broken.exists():
        raise OSError(f"cannot read {work.shard}")
    if (work.settings.data_root / f"unmounted-{work.shard}").exists():
        image = work.settings.data_root / "images/0.jpg"
        patiently(image.read_bytes, image)
    if (work.settings.data_root / "user-error").exists():
        raise ConfigError("model path 'x' does not exist: set models.clip")
    rows = [
        {"id": f"{work.shard}-{index}", "line": index, "image": "gone.jpg", "caption": f"row `{index}`", "words": index}
        for index in range(ROWS - 1)
    ]
    bad = [{"id": "bad", "line": ROWS, "stage": "rows", "reason": "missing_image", "detail": "gone.jpg"}]
    lost = (work.settings.data_root / "lose-a-row").exists()
    if (work.settings.data_root / f"spoil-{work.shard}").exists():
        bad += [{**bad[0], "id": row["id"]} for row in rows[1:]]
        rows = rows[:1]
    return Result(
        rows_in=ROWS,
        kept=rows_table(rows[lost:], SEED),
        quarantine=rows_table(bad, QUARANTINE),
        stats={"truncated": 2, "share": 0.25},
    )


def _copies(work: Work) -> Result:
    kept = work.rows("rows")
    if (trigger := work.settings.data_root / f"change-seed-in-{work.shard}").exists():
        trigger.unlink()
        with (work.settings.data_root / "seed.jsonl").open("a") as file:
            file.write("a line more\n")
    work.log(f"{work.shard} copied by process {os.getpid()}")
    return Result(rows_in=kept.num_rows, kept=kept)


def _total(work: Work) -> Result:
    rows = work.rows("copies").num_rows
    return Result(rows_in=rows, kept=pa.table({"rows": [rows]}), stats={"rows": rows, "loss": [2.0, 1.0]})


def _preflight(run: ResolvedRun) -> tuple[str, ...]:
    if (run.settings.data_root / "broken-benchmark").exists():
        raise ConfigError("the benchmark of `total` is broken: name another")
    return ()


def _files(run: ResolvedRun) -> Versions:
    return input_versions(run.seed)


def depends(settings: object, shard: str, inputs: object) -> object:
    return None


STAGES = (
    Stage(
        name="rows",
        version=1,
        run=_rows,
        depends=depends,
        sharded=True,
        scope="seed",
        files=_files,
        columns=SEED,
        rules=(rules.CONSERVATION, rules.QUARANTINE),
    ),
    Stage(
        name="copies",
        version=1,
        run=_copies,
        depends=depends,
        sharded=True,
        inputs=("rows",),
        columns=SEED,
        rules=(rules.CONSERVATION, rules.SCHEMA),
    ),
    Stage(
        name="total", version=1, run=_total, depends=depends, sharded=False, inputs=("copies",), preflight=_preflight
    ),
)
CARDS = (
    Card(name="rows", group="a", kinds=frozenset({"python"}), description="One row."),
    Card(
        name="copies",
        group="a",
        kinds=frozenset({"python"}),
        description="One row.",
        uses_models=True,
    ),
    Card(name="total", group="b", kinds=frozenset({"python"}), description="One sum.", also_after=("rows",)),
)


def write_profile(path: Path, **changes: object) -> Path:
    """Write a complete profile of three shards, small enough for every test."""
    stage = {"global_batch": 2, "per_device_batch": 2, "learning_rate": 0.001}
    values = {
        "seed": str(path.parent / "seed.jsonl"),
        "shards": 3,
        "budget": 7,
        "models": dict.fromkeys(("clip", "watermark", "captioner", "base"), "none/none"),
        "training": {"seeds": [0], "stage_1": stage, "stage_2": stage},
        "gpu": {"devices": "cpu"},
    }
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return path
