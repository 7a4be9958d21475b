"""Result of an experiment: comparisons, leaderboard, checks and their files. In: names of runs. Out: a ``Result``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import pyarrow.parquet as pq

from bettersynth_assets.config.experiment import BASELINE, Experiment
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.experiments.checks import (
    Check,
    aa_contains_one,
    budget_equal,
    enough_seeds,
    not_tuned_on_report,
    tokens_reported,
)
from bettersynth_assets.experiments.comparison import Scores
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts, Leaderboard, leaderboard
from bettersynth_assets.experiments.leaderboard_files import FORMATS
from bettersynth_assets.experiments.long_tables import RUNS
from bettersynth_assets.experiments.scores import read_scores
from bettersynth_assets.experiments.table import Table, compare_arms
from bettersynth_assets.experiments.tuning import searched
from toolkit.files import digest_of, write_atomically

NAME = "leaderboard"
T = TypeVar("T")
OWN_BUDGET = ("budget.exposures", "budget")
UNKNOWN = "unknown"
"""Stands for the version of the code in runs of older versions, which did not store it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the runs of an experiment show."""

    table: Table
    board: Leaderboard
    checks: tuple[Check, ...]
    scores: Scores

    def write(self, folder: Path) -> list[Path]:
        """Write the leaderboard in all formats; return the files."""
        return write_forms(folder, NAME, FORMATS, self.board)


def write_forms(folder: Path, name: str, forms: Mapping[str, Callable[[T], str]], value: T) -> list[Path]:
    """Write a value in several forms, by the ending of the file; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.{ending}": form(value) for ending, form in forms.items()}
    for path, text in files.items():
        write_atomically(path, text)
    return [*files]


def judge(
    experiment: Experiment,
    declaration: Declaration,
    root: Path,
    runs: Mapping[str, Sequence[str]],
    evaluations: Mapping[str, str],
    facts: Mapping[str, ArmFacts],
    other: str | None = None,
) -> Result:
    """Compare the runs of all arms.

    Args:
        experiment: the experiment.
        declaration: what it declares.
        root: folder of the long tables.
        runs: names of the runs of each arm.
        evaluations: which answers count, by benchmark.
        facts: by arm.
        other: training settings that have scores on the same questions (``tuning.other_settings``).
    """
    found = read_scores(root, runs, declaration.benchmarks, evaluations)
    declaration = replace(declaration, chance=found.chance)
    table = compare_arms(found.scores, declaration, found.questions)
    board = leaderboard(experiment.name, table, declaration, facts)
    rows = {arm: rows_of(root, names) for arm, names in runs.items()}
    own = [arm for arm, values in experiment.arms.items() if set(OWN_BUDGET) & set(values.set)]
    checks = (
        enough_seeds(board),
        aa_contains_one(found.scores[BASELINE], declaration.confidence),
        budget_equal({arm: [row["pretrain_exposures"] for row in of] for arm, of in rows.items()}, BASELINE, own),
        tokens_reported({arm: [row["pretrain_supervised_tokens"] for row in of] for arm, of in rows.items()}),
        not_tuned_on_report(declaration.split, other, searched(experiment)),
    )
    return Result(table=table, board=board, checks=checks, scores=found.scores)


def arm_facts(arm: str, recipe: Recipe, root: Path, runs: Sequence[str], same_as: Sequence[str]) -> ArmFacts:
    """Return what the long tables say about an arm's runs, and the recipe's hash."""
    rows = rows_of(root, runs)
    return ArmFacts(
        arm=arm,
        same_as=tuple(same_as),
        exposures=None if not rows else rows[0]["pretrain_exposures"],
        unique_rows=_mean([row["pretrain_unique_rows"] for row in rows]),
        tokens=_mean([row["pretrain_supervised_tokens"] for row in rows]),
        device_hours=device_hours(rows),
        recipe_hash=recipe_hash(recipe),
        commits=commits_of(rows),
    )


def rows_of(root: Path, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of runs in the long table of runs."""
    files = [root / "runs" / f"{run}.parquet" for run in runs]
    return [row for file in files for row in pq.read_table(file, schema=RUNS).to_pylist()]


def device_hours(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the hours for which runs held their devices; on the CPU, for which they ran."""
    seconds = [
        max(row[f"{phase}_seconds"] or 0.0, row[f"{phase}_gpu_seconds"] or 0.0)
        for row in rows
        for phase in ("pretrain", "finetune")
    ]
    return sum(seconds) / 3600 if seconds else None


def recipe_hash(recipe: Recipe) -> str:
    """Return the first digits of a hash of a recipe's values, without its name and description."""
    return digest_of(recipe.model_dump(mode="json", exclude={"name", "description"}))[:8]


def commits_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the versions of the code that trained runs, each once; empty if none is known."""
    found = dict.fromkeys(row["commit"] or UNKNOWN for row in rows)
    return () if [*found] == [UNKNOWN] else tuple(found)


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
