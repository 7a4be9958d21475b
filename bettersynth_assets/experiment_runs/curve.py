"""Repetition curve: a recipe with fewer and fewer different rows at the same number of exposures.

In: a recipe and numbers of repeats. Out: an experiment whose arms are the recipe (``x4``) and random rows
(``random_x4``) with ``exposures / repeats`` rows, and the difference of both at each number of repeats.

Every run draws its own rows. A recipe that keeps fewer rows than wanted is repeated more often; the table has the
measured numbers. The differences are one family: each is judged at the level divided by the number of repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bettersynth_assets.config.experiment import Experiment, is_random_rows
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.recipes import identifier
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.experiment_runs.experiment_run import ExperimentRun
from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.conclusions import title
from bettersynth_assets.experiments.kit_score import BENCHMARKS
from bettersynth_assets.experiments.leaderboard import Row
from bettersynth_assets.experiments.table import compare_arms


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of repeats: both arms, and their difference by benchmark."""

    repeats: int
    recipe: Row
    random: Row
    differences: tuple[Comparison, ...]


def curve_experiment(name: str, recipe: Recipe, repeats: Sequence[int], seeds: int, settings: Settings) -> Experiment:
    """Return the experiment of a curve.

    Args:
        name: name or path of the recipe.
        recipe: the recipe.
        repeats: mean numbers of exposures of a row, each once.
        seeds: training seeds per arm.
        settings: of the active profile.

    Raises:
        ConfigError: a number is given twice or leaves no row, or the recipe is random rows itself.
    """
    if is_random_rows(recipe):
        raise ConfigError(f"recipe {recipe.name} is random rows, with which a curve compares: name another recipe")
    exposures = replace(settings, recipe=recipe).budget
    if len(set(repeats)) != len(repeats) or max(repeats) > exposures:
        raise ConfigError(f"--repeats {','.join(map(str, repeats))}: give numbers from 1 to {exposures}, each once")
    arms = {}
    for number in repeats:
        changes = {"budget.rows": exposures // number, "budget.exposures": exposures}
        arms[f"x{number}"] = {"recipe": name, "set": changes, "draws": seeds}
        arms[f"random_x{number}"] = {"recipe": "baseline_random", "set": changes, "draws": seeds}
    chosen = [*settings.profile.evaluation.chosen()]
    return Experiment.parse(
        {
            "name": f"curve_{identifier(recipe.name)}",
            "arms": arms,
            "seeds": {"start": seeds, "max": seeds},
            "decide": {"benchmarks": [name for name in chosen if name in BENCHMARKS] or chosen, "pairs": "baseline"},
        }
    )


def judge_curve(opened: ExperimentRun, repeats: Sequence[int]) -> list[Point]:
    """Compare the recipe with random rows at each number of repeats."""
    result, same = opened.result(), opened.same_as()
    rows = {row.arm: row for row in result.board.rows}
    points = []
    for number in repeats:
        arm, other = (same.get(name, name) for name in (f"x{number}", f"random_x{number}"))
        level = opened.declaration.level / len(repeats)
        declared = replace(opened.declaration, baseline=other, confidence=1 - level)
        table = compare_arms({arm: result.scores[arm], other: result.scores[other]}, declared)
        points.append(Point(repeats=number, recipe=rows[arm], random=rows[other], differences=table.comparisons))
    return points


def as_text(points: Sequence[Point]) -> str:
    """Format a curve for the terminal: one line per number of repeats and benchmark."""
    lines = []
    for point in points:
        measured = point.recipe.facts.repeats or 0.0
        lines.append(f"{point.repeats} x (measured {measured:.2f}), {point.recipe.facts.unique_rows or 0:,.0f} rows")
        for one in point.differences:
            of_recipe, of_random = (row.means[one.benchmark].mean for row in (point.recipe, point.random))
            text = str(one.verdict)
            if one.estimate is not None:
                text = f"{one.estimate.value:+.1f} [{one.estimate.low:.1f}, {one.estimate.high:.1f}] {text}"
            lines.append(f"  {title(one.benchmark)}: {of_recipe:.1f}, random rows {of_random:.1f}, difference {text}")
    return "\n".join(lines)
