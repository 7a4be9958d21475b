"""A repetition curve as Markdown and JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.conclusions import interval, title
from bettersynth_assets.experiments.curve import CLAIMED_REPEATS, CurveResult, FittedRows, Point
from bettersynth_assets.experiments.leaderboard import Row
from bettersynth_assets.experiments.repetition import Fit, Interval

NAMES = {"recipe": "recipe", "random": "random rows"}


def as_markdown(curve: CurveResult) -> str:
    """Format the scores, the fits and the worth of repeated rows, for the UI and the terminal."""
    tables = [_scores(curve), _fits(curve)]
    if any(one.fit for one in curve.fits):
        tables.append(_worth(curve))
    return "\n\n".join("\n".join(lines) for lines in tables) + "\n"


def as_json(curve: CurveResult) -> str:
    """Format all values; an infinite end of an interval is null."""
    values = {
        "experiment": curve.experiment,
        "recipe": curve.recipe,
        "confidence": curve.confidence,
        "points": [_point_values(curve, point) for point in curve.points],
        "fits": [_fit_values(curve, one) for one in curve.fits],
    }
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS = {"md": as_markdown, "json": as_json}
"""By the ending of the file."""


def r_star_text(fit: Fit) -> str:
    """Format R* with its interval, or say what is known of it."""
    found = fit.r_star
    if found.value is not None:
        return _estimate(found, ".3g")
    if math.isfinite(found.high):
        return f"not identified: at most {found.high:.3g}"
    return f"not identified: at least {found.low:.3g}" if found.low else "not identified: the runs fit every value"


def worth(fit: Fit, repeats: float) -> str:
    """Format D'/U at a number of repeats."""
    found = fit.effective_share(repeats)
    return f"{found.low:.2f} to {found.high:.2f}" if found.value is None else _estimate(found, ".2f")


def _scores(curve: CurveResult) -> list[str]:
    heads = ["point", "exposures", "unique rows", "repeats", "repeats of random rows"]
    for name in curve.benchmarks:
        heads += [title(name), f"{title(name)}, random rows", "difference", "verdict"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for point in curve.points:
        facts, other = point.recipe.facts, point.random.facts
        cells = [point.name, _number(facts.exposures, ",.0f"), _number(facts.unique_rows, ",.0f")]
        cells += [_number(facts.repeats, ".2f"), _number(other.repeats, ".2f") + ("" if point.is_matched else " *")]
        by_name = {one.benchmark: one for one in point.differences}
        for name in curve.benchmarks:
            cells += [_mean(point.recipe, name), _mean(point.random, name)]
            one = by_name.get(name)
            text = ""
            if one and one.estimate:
                text = interval(one.estimate.value, one.estimate.low, one.estimate.high, name)
            cells += [text, str(one.verdict) if one else "same training data"]
        lines.append(_line(cells))
    if not all(point.is_matched for point in curve.points):
        lines += ["", "\\* not at equal repetition: one of the two has too few rows"]
    return lines


def _fits(curve: CurveResult) -> list[str]:
    heads = [
        "rows",
        "benchmark",
        "score of fresh rows only",
        f"{Measure.of(curve.benchmarks[0]).unit} per doubling of fresh rows",
        "R*",
        "p of the form",
    ]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for one in curve.fits:
        cells = [NAMES[one.rows], title(one.benchmark)]
        if one.fit is None:
            lines.append(_line([*cells, "", "", f"no fit: {one.reason}", ""]))
            continue
        form = f".{Measure.of(one.benchmark).digits}f"
        cells += [_estimate(one.fit.score, form), _estimate(one.fit.points_per_doubling, form)]
        lines.append(_line([*cells, r_star_text(one.fit), _number(one.fit.p_fit, ".2f")]))
    return lines


def _worth(curve: CurveResult) -> list[str]:
    fitted = [one for one in curve.fits if one.fit]
    heads = ["repeats", *(f"D'/U, {NAMES[one.rows]}, {title(one.benchmark)}" for one in fitted)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for repeats in _repeats(curve):
        name = f"{repeats:g}" + (" (third-place team's claim)" if repeats == CLAIMED_REPEATS else "")
        lines.append(_line([name, *(worth(one.fit, repeats) for one in fitted if one.fit)]))
    text = (
        f"D'/U: fresh rows that one row is worth when it is repeated. {CLAIMED_REPEATS} repeats are what the contest's "
        "third-place team says that its best run had; the values are this curve's."
    )
    return [*lines, "", text]


def _repeats(curve: CurveResult) -> list[float]:
    return sorted({*(float(number) for number in curve.repeats if number > 1), CLAIMED_REPEATS})


def _point_values(curve: CurveResult, point: Point) -> dict[str, Any]:
    def of(row: Row) -> dict[str, Any]:
        facts = row.facts
        counts = {"exposures": facts.exposures, "unique_rows": facts.unique_rows, "repeats": facts.repeats}
        parts = ("n", "mean", "sd", "low", "high")
        means = {name: {part: getattr(row.means[name], part) for part in parts} for name in curve.benchmarks}
        return {"arm": row.arm, **counts, "benchmarks": means}

    return {
        "point": point.name,
        "is_matched": point.is_matched,
        "recipe": of(point.recipe),
        "random": of(point.random),
        "differences": {
            one.benchmark: {
                "value": one.estimate and one.estimate.value,
                "low": one.estimate and one.estimate.low,
                "high": one.estimate and one.estimate.high,
                "verdict": str(one.verdict),
            }
            for one in point.differences
        },
    }


def _fit_values(curve: CurveResult, one: FittedRows) -> dict[str, Any]:
    values: dict[str, Any] = {"rows": one.rows, "benchmark": one.benchmark, "reason": one.reason}
    if one.fit is None:
        return values
    fit = one.fit
    return values | {
        "exposures": fit.exposures,
        "seeds": list(fit.seeds),
        "score": _interval_values(fit.score),
        "points_per_doubling": _interval_values(fit.points_per_doubling),
        "r_star": _interval_values(fit.r_star) | {"text": r_star_text(fit)},
        "p_fit": fit.p_fit,
        "effective_share": {f"{at:g}": _interval_values(fit.effective_share(at)) for at in _repeats(curve)},
    }


def _interval_values(found: Interval) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high if math.isfinite(found.high) else None}


def _estimate(found: Interval, form: str) -> str:
    if found.value is None:
        return "not identified"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _mean(row: Row, benchmark: str) -> str:
    mean = row.means[benchmark].mean
    return "" if mean is None else f"{mean:.{Measure.of(benchmark).digits}f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
