"""Scores of an experiment's arms from the long tables. In: names of runs by arm. Out: input of ``compare_arms``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiments.comparison import Questions, Scores
from bettersynth_assets.experiments.long_tables import METRICS, QUESTIONS, RUNS
from bettersynth_assets.experiments.questions import QuestionScores, as_circular, question_scores

Arms = Mapping[str, Sequence[str]]
"""Names of runs, by arm."""


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """What ``compare_arms`` takes.

    Args:
        scores: headline metric by arm, benchmark and training seed.
        questions: scores per question by benchmark and arm, in the units of the metric; a benchmark whose headline
            does not follow from its questions' scores is left out.
        chance: chance level of the headline metric, by benchmark; a benchmark without a known one is left out.
    """

    scores: Scores
    questions: Questions
    chance: Mapping[str, float]


def read_scores(
    root: Path, arms: Arms, benchmarks: Sequence[str], evaluations: Mapping[str, str] | None = None
) -> ArmScores:
    """Read the scores of all runs of all arms in all benchmarks.

    Args:
        root: folder of the long tables.
        arms: names of the runs of each arm.
        benchmarks: names.
        evaluations: which answers count, by benchmark; None uses the only ones there are.

    Raises:
        ConfigError: a run that has not been trained or evaluated, two runs of an arm with one training seed, or answers
            of several evaluations without a choice.
    """
    arm_of = {run: arm for arm, runs in arms.items() for run in runs}
    seeds = {run: _row(root / "runs" / f"{run}.parquet", RUNS, run)["training_seed"] for run in arm_of}
    for arm, runs in arms.items():
        if len({seeds[run] for run in runs}) != len(runs):
            raise ConfigError(f"{arm} has several runs with one training seed ({', '.join(runs)}): use one of them")
    scores: dict[str, dict[str, dict[int, float]]] = {arm: {} for arm in arms}
    questions: dict[str, dict[str, QuestionScores]] = {}
    chance: dict[str, float] = {}
    for benchmark in benchmarks:
        evaluation = (evaluations or {}).get(benchmark) or _only_evaluation(root, benchmark, list(arm_of))
        names = {run: f"{run}-{benchmark}-{evaluation}.parquet" for run in arm_of}
        headlines = {run: _headline(root / "metrics" / name, run, benchmark) for run, name in names.items()}
        for arm, runs in arms.items():
            scores[arm][benchmark] = {seeds[run]: headlines[run]["value"] for run in runs}
        # One evaluation asks the same questions, so all runs that know the level have the same.
        known = [row["chance"] for row in headlines.values() if row["chance"] is not None]
        if known:
            chance[benchmark] = known[0]
        rule = {row["from_questions"] for row in headlines.values()}
        if rule <= {"mean", "all_of_cluster"} and len(rule) == 1:
            tables = {run: pq.read_table(root / "questions" / name, schema=QUESTIONS) for run, name in names.items()}
            found = question_scores(_long(tables, arm_of, seeds), benchmark)
            circular = rule == {"all_of_cluster"}
            questions[benchmark] = {arm: as_circular(one) if circular else one for arm, one in found.items()}
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


def _headline(path: Path, run: str, benchmark: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"run {run} has no answers to {benchmark} ({path.name}): materialize its results")
    table = pq.read_table(path, schema=METRICS)
    (row,) = table.filter(pc.field("headline")).to_pylist()
    return dict(row)


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
