"""A leaderboard as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.conclusions import difference, sentences, title
from bettersynth_assets.experiments.leaderboard import Against, Leaderboard, Row
from bettersynth_assets.experiments.table import ArmMean

MARK = "●"
"""Marks the arms that are not shown to be worse than the best one."""
MOST_COMMITS = 2
"""Of an arm's runs in a cell of the Markdown table; with more, the cell has their number."""


def as_markdown(board: Leaderboard) -> str:
    """Format a table for the UI and the terminal, and the conclusions below it."""
    heads = ["", "arm", "runs", "unique rows", "repeats", "tokens"]
    for name in board.benchmarks:
        chance = board.chance[name]
        head = title(name) if chance is None else f"{title(name)} (chance {chance:.2f})"
        heads += [head, f"{title(name)} to {board.baseline}", "verdict", "to the best"]
    heads += ["kit score", "device hours", "hours per point", "recipe", "commit"]
    rows = [_cells(row, board) for row in board.rows]
    lines = [_line(heads), _line(["---"] * len(heads)), *map(_line, rows), ""]
    if any(row.among_best for row in board.rows):
        lines += [f"{MARK} not shown to be worse than the best arm in any benchmark", ""]
    lines += [f"split {board.split}", ""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in sentences(board)), ""])


def as_json(board: Leaderboard) -> str:
    """Format all values, with the conclusions."""
    values = {**asdict(board), "conclusions": sentences(board)}
    for row, values_of_row in zip(board.rows, values["rows"], strict=True):
        values_of_row["facts"]["repeats"] = row.facts.repeats
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(board: Leaderboard) -> str:
    """Format one line per arm; the columns of a benchmark begin with its name."""
    text = io.StringIO()
    rows = [_flat(row, board) for row in board.rows]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMATS = {"md": as_markdown, "json": as_json, "csv": as_csv}
"""By the ending of the file."""


def _cells(row: Row, board: Leaderboard) -> list[str]:
    facts = row.facts
    name = f"{row.arm} (= {', '.join(facts.same_as)})" if facts.same_as else row.arm
    cells = [MARK if row.among_best else "", name, str(row.runs), _number(facts.unique_rows, ",.0f")]
    cells += [_number(facts.repeats, ".2f"), _number(facts.tokens, ",.0f")]
    for benchmark in board.benchmarks:
        own, best = row.to_baseline.get(benchmark), row.to_best.get(benchmark)
        cells += [_mean(row.means[benchmark]), _difference(own, benchmark), own.verdict if own else ""]
        cells.append(_difference(best, benchmark))
    score = f"{row.kit_score.value:.3f} ± {row.kit_score.se:.3f}" if row.kit_score else ""
    cells += [score, _number(facts.device_hours, ".3f"), _number(row.hours_per_point, ".4f")]
    return [*cells, facts.recipe_hash, _commits(facts.commits)]


def _flat(row: Row, board: Leaderboard) -> dict[str, Any]:
    facts = row.facts
    values: dict[str, Any] = {
        "arm": row.arm, "same_as": " ".join(facts.same_as), "among_best": row.among_best, "split": board.split,
        "runs": row.runs, "exposures": facts.exposures, "unique_rows": facts.unique_rows, "repeats": facts.repeats,
        "tokens": facts.tokens, "mean": row.mean,
    }  # fmt: skip
    for name in board.benchmarks:
        mean = row.means[name]
        values |= {f"{name}_{part}": getattr(mean, part) for part in ("n", "mean", "sd", "low", "high", "chance")}
        for other, found in (("baseline", row.to_baseline), ("best", row.to_best)):
            against = asdict(found[name]) if name in found else dict.fromkeys(("value", "low", "high", "verdict"))
            values |= {f"{name}_to_{other}_{part}": value for part, value in against.items()}
    score = row.kit_score
    return values | {
        "kit_score": score and score.value, "kit_score_se": score and score.se, "device_hours": facts.device_hours,
        "hours_per_point": row.hours_per_point, "recipe_hash": facts.recipe_hash, "commits": " ".join(facts.commits),
    }  # fmt: skip


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(mean: ArmMean) -> str:
    if mean.mean is None:
        return ""
    digits = Measure.of(mean.benchmark).digits
    interval = "" if mean.low is None else f" [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"
    return f"{mean.mean:.{digits}f}{interval}"


def _difference(against: Against | None, benchmark: str) -> str:
    return difference(against, benchmark) if against and against.value is not None else ""


def _commits(commits: tuple[str, ...]) -> str:
    return ", ".join(commits) if len(commits) <= MOST_COMMITS else f"{len(commits)} commits"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
