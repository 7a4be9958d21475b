"""eval_results and baseline_results. In: a checkpoint per training seed. Out: accuracy on TextVQA and MMBench per seed.

kept: seed int64; textvqa, mmbench float64, percent; <benchmark>_questions, <benchmark>_answers int64, equal or the
evaluation fails; mmbench_unparsed int64, answers that name no option and count as wrong. The answers lie beside it.
eval_results also compares: its stats hold the baseline's figures and the contest's score.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.checks.rules import ALL_ANSWERED
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.stages.arms import BENCHMARKS, arm_stats, compare
from bettersynth_assets.stages.benchmarks import as_benchmarks, benchmark_files, fingerprint
from bettersynth_assets.stages.child import Event, run_child
from bettersynth_assets.stages.side_inputs import benchmark_images_hash, check_benchmarks
from bettersynth_assets.stages.stage import Inputs, Log, Result, Stage, Work
from bettersynth_assets.stages.train import folder_of

MODULE = "toolkit.evaluate.run"
RESULTS = pa.schema(
    [
        ("seed", pa.int64()),
        ("textvqa", pa.float64()),
        ("mmbench", pa.float64()),
        ("textvqa_questions", pa.int64()),
        ("textvqa_answers", pa.int64()),
        ("mmbench_questions", pa.int64()),
        ("mmbench_answers", pa.int64()),
        ("mmbench_unparsed", pa.int64()),
    ]
)


def answer(work: Work, source: str) -> list[dict[str, Any]]:
    """Let every seed's model answer both benchmarks, and score the answers.

    Returns:
        Rows of schema ``RESULTS``, in the order of the seeds.

    Raises:
        ChildError: answers are missing; there is no score over a part of a benchmark.
    """
    (checkpoints,) = work.inputs[source]
    checkpoints.verify()
    models = {row["seed"]: checkpoints.path / row["path"] for row in checkpoints.table().to_pylist()}
    plans = {
        work.folder / f"plan-{seed}.json": plan(work.settings, work.folder / folder_of(seed), model)
        for seed, model in models.items()
        # Written last and with its answers, so a killed run's finished seeds are not answered again.
        if not _is_answered(work.folder / folder_of(seed))
    }
    if plans:
        run_child(MODULE, plans, on_event=Reporter(source, work.log), log=work.log)
    return [_row(seed, work.folder / folder_of(seed) / "results.json") for seed in models]


def plan(settings: Settings, output: Path, model: Path) -> dict[str, Any]:
    """One seed's plan, as ``toolkit.evaluate.run`` reads it."""
    gpu = settings.profile.gpu
    return {
        "model": str(model),
        "output": str(output),
        "batch_size": settings.profile.evaluation.batch,
        "device": "cpu" if gpu.devices == "cpu" else "auto",
        "dtype": gpu.dtype,
        "cache_dir": str(settings.profile_root / "features") if settings.profile.training.feature_cache else None,
        "benchmarks": as_benchmarks(benchmark_files(settings)),
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
            scores = [
                f"{row['benchmark']} {row['value']:.2f}" for row in event["results"] if row["metric"] == "accuracy"
            ]
            self.log(f"{where}: {', '.join(scores)}, {event['seconds']:.1f} s")
            for name, made in event["benchmarks"].items():
                if "incomplete" in made:
                    self.log(f"{where} {name}: incomplete; {made['missing']} rows are missing")


def _is_answered(folder: Path) -> bool:
    try:
        _row(0, folder / "results.json")
    except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged by whatever ended the run
        return False
    return all((folder / name / "answers.jsonl").is_file() for name in BENCHMARKS)


def _row(seed: int, results: Path) -> dict[str, Any]:
    found = json.loads(results.read_text(encoding="utf-8"))
    figures = {row["benchmark"]: row for row in found["results"] if row["metric"] == "accuracy"}
    row: dict[str, Any] = {"seed": seed, "mmbench_unparsed": figures["mmbench"]["unparsed"]}
    for name in BENCHMARKS:
        row |= {name: figures[name]["value"]}
        row |= {f"{name}_{part}": found["benchmarks"][name][part] for part in ("questions", "answers")}
    return row


def run_baseline(work: Work) -> Result:
    """Evaluate the baseline arm."""
    rows = answer(work, "baseline_checkpoint")
    return _result(rows, arm_stats(rows))


def run(work: Work) -> Result:
    """Evaluate the recipe's arm and compare it with the baseline."""
    rows = answer(work, "mgm_checkpoint")
    return _result(rows, compare(rows, work.stats("baseline_results")))


def _result(rows: list[dict[str, Any]], stats: dict[str, Any]) -> Result:
    files = tuple(f"{folder_of(row['seed'])}/{name}/answers.jsonl" for row in rows for name in BENCHMARKS)
    other = tuple(f"{folder_of(row['seed'])}/results.json" for row in rows)
    kept = pa.Table.from_pylist(rows, schema=RESULTS)
    return Result(rows_in=len(rows), kept=kept, stats=stats, files=files, other_files=other)


def depends(settings: Settings, shard: str, inputs: Inputs) -> object:
    return {
        "benchmarks": fingerprint(benchmark_files(settings)),
        "images": benchmark_images_hash(settings),
        "dtype": settings.profile.gpu.dtype,
    }


EVAL_RESULTS = Stage(
    name="eval_results",
    version=2,
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
