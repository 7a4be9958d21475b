"""eval_results and baseline_results. In: a checkpoint per training seed. Out: metrics on the profile's benchmarks.

::

    kept       one row per training seed, benchmark and metric; a benchmark's first metric is its headline
    questions  one row per training seed and question; see ``toolkit.evaluation.question_rows``

The same rows are added to the long tables of all runs (``experiments.long_tables``), by run instead of training seed.

A unit (``toolkit.evaluation.units``) holds the answers of one checkpoint to one benchmark. All recipes share it, under
a key of that checkpoint and that benchmark only. A run answers the missing units and assembles both tables and a copy
of the answers from the units. An added or changed benchmark is therefore the only one that is answered, and after a
failure the next run continues. Units are never removed.

A benchmark that lacks an answer to a question fails. eval_results also compares: its stats hold the baseline's metrics
and the contest's score.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Log, Result, Stage, Work
from bettersynth_assets.engine.store import write_table
from bettersynth_assets.scheduler.child_process import ChildError, Event, run_child
from bettersynth_assets.stages.answers import LIBRARIES, add_to_long_tables, rows_of, run_key, unit_locations
from bettersynth_assets.stages.compare import arm_stats, compare
from bettersynth_assets.stages.rules import ALL_ANSWERED
from bettersynth_assets.stages.side_inputs import benchmarks_key, check_benchmarks
from bettersynth_assets.stages.train import folder_of
from bettersynth_assets.stages.tuning import refuse_tuning_on_report
from bettersynth_assets.stages.world import prepare_benchmarks
from toolkit.evaluation.output import RESULTS as RESULTS_FILE
from toolkit.evaluation.question_rows import ROWS
from toolkit.evaluation.units import Unit, UnitLocation, finished, summary
from toolkit.files import write_json

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
    """Let the model of each training seed answer its unanswered benchmarks, and score the answers.

    Returns:
        Rows of schema ``RESULTS``, in the order of the seeds.

    Raises:
        ChildError: answers are missing; benchmarks that were finished before the failure are kept.
    """
    (checkpoints,) = work.inputs[source]
    checkpoints.verify()
    rows = checkpoints.table().to_pylist()
    models = [Model(label=folder_of(row["seed"]), run=row["run"], path=checkpoints.path / row["path"]) for row in rows]
    answers = answer_models(work.run, models, work.folder, source, work.log)
    for model in models:
        _copy(work.folder / model.label, *answers[model.label], model.path)
    return [
        {"seed": row["seed"], **result}
        for row, model in zip(rows, models, strict=True)
        for unit in answers[model.label][1]
        for result in unit.results
    ]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained checkpoint: its name in log lines and folders, the name of its training run, its folder."""

    label: str
    run: str
    path: Path


def answer_models(
    run: ResolvedRun, models: Sequence[Model], folder: Path, source: str, log: Log
) -> dict[str, tuple[dict[str, UnitLocation], list[Unit]]]:
    """Let trained models answer their unanswered benchmarks; add all answers to the long tables.

    Args:
        run: profile with the benchmarks.
        models: the checkpoints.
        folder: for plans and output.
        source: beginning of log lines.
        log: called with progress lines.

    Returns:
        Locations and units by label.

    Raises:
        ChildError: answers are missing; benchmarks that were finished before the failure are kept.
    """
    locations_of = {model.label: unit_locations(run, model.path) for model in models}
    plans = {}
    for model in models:
        missing = {name: location for name, location in locations_of[model.label].items() if finished(location) is None}
        if missing:
            plan = evaluation_plan(run, folder / model.label, model.path, missing)
            plans[folder / f"plan-{model.label}.json"] = plan
    if plans:
        run_child(MODULE, plans, on_event=Reporter(source, log), log=log)
    answers = {label: (locations, _units(locations)) for label, locations in locations_of.items()}
    for model in models:
        add_to_long_tables(run, model.run, *answers[model.label])
    return answers


def evaluation_plan(run: ResolvedRun, output: Path, model: Path, missing: Mapping[str, UnitLocation]) -> dict[str, Any]:
    """Return one seed's plan for ``toolkit.evaluation.run``, restricted to the missing benchmarks."""
    settings, gpu = run.settings, run.gpu
    return {
        "model": str(model),
        "output": str(output),
        "extensions": settings.profile.extension_files(),
        "batch_size": settings.profile.evaluation.batch,
        "device": "cpu" if gpu.devices == "cpu" else "auto",
        "dtype": gpu.dtype,
        "cache_dir": str(settings.profile_root / "features") if settings.profile.training.feature_cache else None,
        "benchmarks": {name: values for name, values in run.benchmarks.items() if name in missing},
        "units": {
            name: {"folder": str(location.folder), "unit_key": location.key} for name, location in missing.items()
        },
    }


class Reporter:
    """Logs a child's progress, about ten lines per benchmark."""

    def __init__(self, source: str, log: Log) -> None:
        self.source, self.log = source, log
        self.last: dict[str, tuple[str, int]] = {}

    def __call__(self, event: Event) -> None:
        """Log one event."""
        folder = Path(event.get("output", "")).name
        where = f"{self.source} {folder}"
        if event.get("event") == "progress":
            progress = (event["benchmark"], 10 * event["done"] // event["total"])
            if progress != self.last.get(folder):
                rate = f"{event['answers_per_s']:.1f} answers/s"
                self.log(f"{where} {event['benchmark']}: {event['done']}/{event['total']}, {rate}")
            self.last[folder] = progress
        elif event.get("event") == "done":
            headlines = {row["benchmark"]: row["value"] for row in reversed(event["results"])}
            scores = ", ".join(f"{name} {headlines[name]:.2f}" for name in event["benchmarks"])
            self.log(f"{where}: {scores}, {event['seconds']:.1f} s")
            for name, counts in event["benchmarks"].items():
                if "incomplete" in counts:
                    self.log(f"{where} {name}: incomplete, {counts.get('missing', '?')} rows are missing")


def _units(locations: Mapping[str, UnitLocation]) -> list[Unit]:
    """Return the finished units of one seed.

    Raises:
        ChildError: a unit is missing or damaged although the child reported success.
    """
    units = {name: finished(location) for name, location in locations.items()}
    if missing := [name for name, unit in units.items() if unit is None]:
        raise ChildError(
            f"{MODULE} ended with exit code 0 but without complete answers to {', '.join(missing)}; check its output"
        )
    return [unit for unit in units.values() if unit is not None]


def _copy(folder: Path, locations: Mapping[str, UnitLocation], units: Sequence[Unit], model: Path) -> None:
    """Copy a seed's answers to the version's folder and write ``results.json`` next to them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for unit in units:
        for name in unit.files:
            target = folder / unit.benchmark / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(locations[unit.benchmark].folder / name, target)
    write_json(folder / RESULTS_FILE, summary(units, model=str(model)))


def _files(folder: Path) -> list[str]:
    """Return the files that the benchmarks of one seed have written, relative to the seed's folder."""
    return [f"{name}/{file}" for name, made in _results(folder)["benchmarks"].items() for file in made["files"]]


def _results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return results


def _questions(folder: Path, seeds: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Return the rows of schema ``QUESTIONS`` of all seeds."""
    rows = []
    for training_seed in seeds:
        for name in names:
            for row in rows_of(folder / folder_of(training_seed) / name / ROWS):
                rows.append({"seed": training_seed, "benchmark": name, **row, "options": list(row["options"].items())})
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
    by_benchmark = _results(work.folder / folder_of(seeds[0]))["benchmarks"]
    asked = {name: by_benchmark[name]["questions"] for name in names}
    chance = {name: by_benchmark[name].get("chance", {}) for name in names}  # answers of older versions have none
    answers = (
        f"{folder_of(training_seed)}/{file}"
        for training_seed in seeds
        for file in _files(work.folder / folder_of(training_seed))
    )
    return Result(
        rows_in=len(rows),
        kept=pa.Table.from_pylist(rows, schema=RESULTS),
        stats={**stats, "questions": asked, "chance": chance, "split": work.settings.profile.evaluation.split},
        files=("questions.parquet", *answers),
        other_files=tuple(f"{folder_of(training_seed)}/{RESULTS_FILE}" for training_seed in seeds),
    )


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    return {"benchmarks": benchmarks_key(run), **run_key(run)}


def preflight(run: ResolvedRun) -> tuple[str, ...]:
    """Check the benchmarks' files, and that no other training settings have scores on the same report.

    Raises:
        ConfigError: see ``check_benchmarks`` and ``refuse_tuning_on_report``.
        EnvironmentFault: the environment prevents reading a file.
    """
    warnings = check_benchmarks(run)
    refuse_tuning_on_report(run)
    return warnings


EVAL_RESULTS = Stage(
    name="eval_results",
    version=4,
    rules=(ALL_ANSWERED,),
    run=run,
    depends=depends,
    sharded=False,
    inputs=("mgm_checkpoint", "baseline_results"),
    libraries=LIBRARIES,
    prepare=prepare_benchmarks,
    preflight=preflight,
)
BASELINE_RESULTS = replace(
    EVAL_RESULTS,
    name="baseline_results",
    run=run_baseline,
    inputs=("baseline_checkpoint",),
    scope="budget",
)
