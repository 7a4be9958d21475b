"""Scores of an experiment's arms from the long tables. In: names of runs by arm. Out: input of ``compare_arms``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.config.deciding import Measure, can_decide
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison import Questions, Scores
from bettersynth_assets.experiments.long_tables import METRICS, QUESTIONS, RUNS
from bettersynth_assets.experiments.questions import QuestionScores, as_circular, question_scores
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.suggest import nearest

Arms = Mapping[str, Sequence[str]]
"""Names of runs, by arm."""


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """What ``compare_arms`` takes.

    Args:
        scores: metric by arm, deciding measure and training seed; then the headlines of measures that are others, for
            the kit score.
        questions: scores per question by measure and arm, in the units of the metric; a metric that does not follow
            from its questions' scores is left out.
        chance: chance level of the metric, by measure; one without a known level is left out.
    """

    scores: Scores
    questions: Questions
    chance: Mapping[str, float]


def read_scores(
    root: Path, arms: Arms, measures: Sequence[str], evaluations: Mapping[str, str] | None = None
) -> ArmScores:
    """Read the scores of all runs of all arms in all measures.

    Args:
        root: folder of the long tables.
        arms: names of the runs of each arm.
        measures: benchmarks for their headlines, or ``benchmark/metric`` (``config.deciding``).
        evaluations: which answers count, by benchmark; None uses the only ones there are.

    Raises:
        ConfigError: a run that has not been trained or evaluated, two runs of an arm with one training seed, answers
            of several evaluations without a choice, or a metric that the tables do not have.
    """
    arm_of = {run: arm for arm, runs in arms.items() for run in runs}
    seeds = {run: _row(root / "runs" / f"{run}.parquet", RUNS, run)["training_seed"] for run in arm_of}
    for arm, runs in arms.items():
        if len({seeds[run] for run in runs}) != len(runs):
            raise ConfigError(f"{arm} has several runs with one training seed ({', '.join(runs)}): use one of them")
    scores: dict[str, dict[str, dict[int, float]]] = {arm: {} for arm in arms}
    questions: dict[str, dict[str, QuestionScores]] = {}
    chance: dict[str, float] = {}
    # The kit score is made of headlines, whatever decides.
    headlines = [Measure.of(name).benchmark for name in measures]
    for name in dict.fromkeys([*measures, *headlines]):
        measure = Measure.of(name)
        benchmark = measure.benchmark
        evaluation = (evaluations or {}).get(benchmark) or _only_evaluation(root, benchmark, list(arm_of))
        files = {run: f"{run}-{benchmark}-{evaluation}.parquet" for run in arm_of}
        rows = {run: _metric(root / "metrics" / file, run, measure) for run, file in files.items()}
        for arm, runs in arms.items():
            scores[arm][name] = {seeds[run]: rows[run]["value"] for run in runs}
        # One evaluation asks the same questions, so all runs that know the level have the same.
        known = [row["chance"] for row in rows.values() if row["chance"] is not None]
        if known:
            chance[name] = known[0]
        rule = {_rule(row, measure) for row in rows.values()}
        if name in measures and rule <= {"mean", "all_of_cluster"} and len(rule) == 1:
            tables = {run: pq.read_table(root / "questions" / file, schema=QUESTIONS) for run, file in files.items()}
            found = question_scores(_long(tables, arm_of, seeds), benchmark)
            circular = rule == {"all_of_cluster"}
            questions[name] = {arm: as_circular(one) if circular else one for arm, one in found.items()}
    return ArmScores(scores=scores, questions=questions, chance=chance)


def _long(tables: Mapping[str, pa.Table], arm_of: Mapping[str, str], seeds: Mapping[str, int]) -> dict[str, Any]:
    """Return the columns that ``question_scores`` takes; its runs are training seeds."""
    columns: dict[str, list[Any]] = {name: [] for name in ("arm", "run", "benchmark", "question", "cluster", "score")}
    for run, table in tables.items():
        columns["arm"] += [arm_of[run]] * table.num_rows
        columns["run"] += [seeds[run]] * table.num_rows
        columns["question"] += table["question_id"].to_pylist()
        for name in ("benchmark", "cluster", "score"):
            columns[name] += table[name].to_pylist()
    return columns


def _metric(path: Path, run: str, measure: Measure) -> dict[str, Any]:
    """Return the row of a measure in a table of metrics."""
    benchmark = measure.benchmark
    if not path.is_file():
        raise ConfigError(f"run {run} has no answers to {benchmark} ({path.name}): materialize its results")
    rows = {row["metric"]: row for row in pq.read_table(path, schema=METRICS).to_pylist()}
    (headline,) = [name for name, row in rows.items() if row["headline"]]
    name = measure.metric or headline
    if measure.metric == headline:
        raise ConfigError(f"{benchmark}/{name}: {name} is the headline of {benchmark}: write {benchmark}")
    if name not in rows:
        others = [other for other in rows if other != headline and can_decide(benchmark, other)]
        raise ConfigError(f"{benchmark}/{name}: run {run} has no such metric: {nearest(name, others)}")
    return dict(rows[name])


def _rule(row: Mapping[str, Any], measure: Measure) -> str | None:
    """Return how a metric follows from the questions' scores; None if it does not."""
    if measure.metric is None:
        return cast("str | None", row["from_questions"])
    known = measure.benchmark in BENCHMARKS.names()
    return BENCHMARKS.get(measure.benchmark).other_metrics.get(measure.metric) if known else None


def _row(path: Path, schema: pa.Schema, run: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"run {run} is not in {path.parent}: materialize its checkpoint")
    (row,) = pq.read_table(path, schema=schema).to_pylist()
    return dict(row)


def _only_evaluation(root: Path, benchmark: str, runs: Sequence[str]) -> str:
    """Return the evaluation that all runs have in common.

    Raises:
        ConfigError: there is none, or there are several.
    """
    prefixes = [f"{run}-{benchmark}-" for run in runs]
    found = [
        {path.stem.removeprefix(prefix) for path in (root / "metrics").glob(f"{prefix}*.parquet")}
        for prefix in prefixes
    ]
    common = set.intersection(*found) if found else set()
    if not common:
        raise ConfigError(f"the runs have no common answers to {benchmark}: materialize the results of all arms")
    if len(common) > 1:
        raise ConfigError(f"the runs have several sets of answers to {benchmark}: choose one of {sorted(common)}")
    return common.pop()
