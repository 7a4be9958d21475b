"""eval_results and baseline_results. In: a checkpoint per training seed. Out: figures on the profile's benchmarks.

::

    kept       one row per training seed, benchmark and metric; a benchmark's first metric is its headline
    questions  one row per training seed and question; see ``toolkit.evaluation.question_rows``

The answers lie beside them. A benchmark without an answer to each question fails. eval_results also compares: its stats
hold the baseline's figures and the contest's score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.rules import ALL_ANSWERED
from bettersynth_assets.engine.stage import Inputs, Log, Result, Stage, Work
from bettersynth_assets.engine.store import write_table
from bettersynth_assets.scheduler.child_process import Event, run_child
from bettersynth_assets.stages.arms import arm_stats, compare
from bettersynth_assets.stages.benchmarks import benchmarks
from bettersynth_assets.stages.side_inputs import benchmarks_key, check_benchmarks
from bettersynth_assets.stages.train import architecture_key, folder_of
from toolkit.evaluation.output import RESULTS as RESULTS_FILE
from toolkit.evaluation.question_rows import ROWS

MODULE = "toolkit.evaluation.run"
RESULTS = pa.schema(
    [
        ("seed", pa.int64()),
        ("benchmark", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("unparsed", pa.int64()),
        ("protocol", pa.string()),
    ]
)
QUESTIONS = pa.schema(
    [
        ("seed", pa.int64()),
        ("benchmark", pa.string()),
        ("question_id", pa.string()),
        ("cluster_id", pa.string()),
        ("answer", pa.string()),
        ("right", pa.float64()),
        ("log_probability", pa.float64()),
        ("tokens", pa.int64()),
        ("characters", pa.int64()),
        ("options", pa.map_(pa.string(), pa.float64())),
    ]
)


def answer(work: Work, source: str) -> list[dict[str, Any]]:
    """Let every seed's model answer the benchmarks, and score the answers.

    Returns:
        Rows of schema ``RESULTS``, in the order of the seeds.

    Raises:
        ChildError: answers are missing; there is no score over a part of a benchmark.
    """
    names = list(work.settings.profile.evaluation.chosen())
    (checkpoints,) = work.inputs[source]
    checkpoints.verify()
    models = {row["seed"]: checkpoints.path / row["path"] for row in checkpoints.table().to_pylist()}
    plans = {
        work.folder / f"plan-{seed}.json": plan(work.settings, work.folder / folder_of(seed), model)
        for seed, model in models.items()
        # Written last and with its answers, so a killed run's finished seeds are not answered again.
        if not _is_answered(work.folder / folder_of(seed), names)
    }
    if plans:
        run_child(MODULE, plans, on_event=Reporter(source, work.log), log=work.log)
    return [row for seed in models for row in _rows(seed, work.folder / folder_of(seed), names)]


def plan(settings: Settings, output: Path, model: Path) -> dict[str, Any]:
    """One seed's plan, as ``toolkit.evaluation.run`` reads it."""
    gpu = settings.profile.gpu
    return {
        "model": str(model),
        "output": str(output),
        "extensions": settings.profile.extension_files(),
        "batch_size": settings.profile.evaluation.batch,
        "device": "cpu" if gpu.devices == "cpu" else "auto",
        "dtype": gpu.dtype,
        "cache_dir": str(settings.profile_root / "features") if settings.profile.training.feature_cache else None,
        "benchmarks": benchmarks(settings),
    }


class Reporter:
    """Puts a child's progress into the log, about ten lines for each benchmark."""

    def __init__(self, source: str, log: Log) -> None:
        self.source, self.log = source, log
        self.last: dict[str, tuple[str, int]] = {}

    def __call__(self, event: Event) -> None:
        """One report."""
        folder = Path(event.get("output", "")).name
        where = f"{self.source} {folder}"
        if event.get("event") == "progress":
            found = (event["benchmark"], 10 * event["done"] // event["total"])
            if found != self.last.get(folder):
                rate = f"{event['answers_per_s']:.1f} answers/s"
                self.log(f"{where} {event['benchmark']}: {event['done']}/{event['total']}, {rate}")
            self.last[folder] = found
        elif event.get("event") == "done":
            headlines = {row["benchmark"]: row["value"] for row in reversed(event["results"])}
            scores = ", ".join(f"{name} {headlines[name]:.2f}" for name in event["benchmarks"])
            self.log(f"{where}: {scores}, {event['seconds']:.1f} s")
            for name, made in event["benchmarks"].items():
                if "incomplete" in made:
                    self.log(f"{where} {name}: incomplete, {made.get('missing', '?')} rows are missing")


def _is_answered(folder: Path, names: Sequence[str]) -> bool:
    try:
        _rows(0, folder, names)
        return all((folder / file).is_file() for file in _files(folder))
    except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged by whatever ended the run
        return False


def _files(folder: Path) -> list[str]:
    """What the benchmarks of one seed have written, relative to the seed's folder."""
    return [f"{name}/{file}" for name, made in _results(folder)["benchmarks"].items() for file in made["files"]]


def _results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return found


def _rows(seed: int, folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of schema ``RESULTS`` of one seed, in the profile's order of benchmarks.

    Raises:
        ValueError: results of other benchmarks than ``names``.
    """
    found = _results(folder)
    if sorted(found["benchmarks"]) != sorted(names):
        raise ValueError(f"{folder}: holds results of {', '.join(found['benchmarks'])}")
    ordered = sorted(found["results"], key=lambda row: names.index(row["benchmark"]))
    return [{"seed": seed, **row} for row in ordered]


def _questions(folder: Path, seeds: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Rows of schema ``QUESTIONS`` of all seeds."""
    rows = []
    for seed in seeds:
        for name in names:
            for line in (folder / folder_of(seed) / name / ROWS).read_text(encoding="utf-8").split("\n")[:-1]:
                row = json.loads(line)
                rows.append({"seed": seed, "benchmark": name, **row, "options": list(row["options"].items())})
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


def run_baseline(work: Work) -> Result:
    """Evaluate the baseline arm."""
    rows = answer(work, "baseline_checkpoint")
    return _result(work, rows, arm_stats(rows))


def run(work: Work) -> Result:
    """Evaluate the recipe's arm and compare it with the baseline."""
    rows = answer(work, "mgm_checkpoint")
    return _result(work, rows, compare(rows, work.stats("baseline_results")))


def _result(work: Work, rows: list[dict[str, Any]], stats: dict[str, Any]) -> Result:
    names = list(work.settings.profile.evaluation.chosen())
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    write_table(work.folder / "questions.parquet", _questions(work.folder, seeds, names))
    made = _results(work.folder / folder_of(seeds[0]))["benchmarks"]
    asked = {name: made[name]["questions"] for name in names}
    answers = (f"{folder_of(seed)}/{file}" for seed in seeds for file in _files(work.folder / folder_of(seed)))
    return Result(
        rows_in=len(rows),
        kept=pa.Table.from_pylist(rows, schema=RESULTS),
        stats={**stats, "questions": asked},
        files=("questions.parquet", *answers),
        other_files=tuple(f"{folder_of(seed)}/{RESULTS_FILE}" for seed in seeds),
    )


def depends(settings: Settings, shard: str, inputs: Inputs) -> object:
    profile = settings.profile
    return {
        "benchmarks": benchmarks_key(settings),
        **architecture_key(settings),
        "evaluation": profile.evaluation.key(),
        "gpu": profile.gpu.key("evaluation"),
    }


EVAL_RESULTS = Stage(
    name="eval_results",
    version=3,
    rules=(ALL_ANSWERED,),
    run=run,
    depends=depends,
    sharded=False,
    inputs=("mgm_checkpoint", "baseline_results"),
    libraries=("torch", "transformers"),
    resume=True,
    preflight=check_benchmarks,
)
BASELINE_RESULTS = replace(
    EVAL_RESULTS,
    name="baseline_results",
    run=run_baseline,
    inputs=("baseline_checkpoint",),
    shared=True,
)
