"""What differs between two arms of an experiment. In: recipes, facts, a result. Out: text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.comparison import Comparison, Scores
from bettersynth_assets.experiments.conclusions import NO_QUESTIONS, interval, title
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.leaderboard import ArmFacts
from bettersynth_assets.experiments.table import Table, compare_arms

FACTS = ("exposures", "unique_rows", "repeats", "tokens", "device_hours", "recipe_hash")


def recipe_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ between two recipes, by dotted key; None where a recipe has no such section."""
    a, b = dict(_flat(one)), dict(_flat(other))
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}


def comparisons_of(
    one: str, other: str, table: Table, scores: Scores, declaration: Declaration
) -> tuple[list[Comparison], bool]:
    """Return the comparisons of two arms, by benchmark, in the declared direction.

    Returns:
        The comparisons, and whether the experiment declares them. Others are judged alone, as a family of their own.
    """
    declared = [found for found in table.comparisons if {found.arm, found.other} == {one, other}]
    if declared:
        return declared, True
    alone = replace(declaration, baseline=other, pairs="baseline")
    return list(compare_arms({one: scores[one], other: scores[other]}, alone).comparisons), False


def as_text(
    names: tuple[str, str],
    recipes: Mapping[str, tuple[Any, Any]],
    facts: tuple[ArmFacts, ArmFacts],
    comparisons: tuple[list[Comparison], bool],
) -> str:
    """Format the differences of two arms for the terminal."""
    lines = [f"recipes: {names[0]} | {names[1]}"]
    lines += [f"  {key}: {_shown(a)} | {_shown(b)}" for key, (a, b) in recipes.items()] or ["  equal"]
    lines += ["", "training sets and runs:"]
    for name in FACTS:
        a, b = (getattr(one, name) for one in facts)
        lines.append(f"  {name}: {_shown(a)} | {_shown(b)}")
    found, declared = comparisons
    note = "" if declared else " (not declared by the experiment: a look, not a result)"
    lines += ["", f"scores{note}:"]
    for one in found:
        if one.estimate is None:
            lines.append(f"  {title(one.benchmark)}: {one.verdict}")
            continue
        estimate = one.estimate
        lines.append(
            f"  {title(one.benchmark)}, {one.arm} - {one.other}: "
            f"{interval(estimate.value, estimate.low, estimate.high, one.benchmark)}, {estimate.seeds} seeds, "
            f"p {one.p_adjusted:.3g}: {one.verdict}"
        )
        wider, digits = NO_QUESTIONS, Measure.of(one.benchmark).digits
        if estimate.generalising:
            wider = "[{:.{digits}f}, {:.{digits}f}]".format(*estimate.generalising, digits=digits)
        lines.append(f"    with other questions of the same kind: {wider}")
    return "\n".join(lines)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value in (None, "") else str(value)
