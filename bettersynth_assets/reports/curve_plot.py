"""Plot of a repetition curve. In: its result. Out: SVG, one panel per benchmark.

Points are means over the seeds at the measured repeats, without the points of fewer exposures; a line is the fitted
curve and the area around it the interval at each number of repeats. The third-place team's claim is a mark on the
recipe's curve. Matplotlib is imported when a curve is drawn, because it takes a second.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.conclusions import title
from bettersynth_assets.experiments.curve import CLAIMED_REPEATS, CurveResult, FittedRows
from bettersynth_assets.experiments.curve_tables import NAMES, r_star_text, worth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"recipe": "#4f7ecb", "random": "#c98a2b"}
STEPS = 60
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "curve", "font.size": 9}
"""Text stays text, and equal results give equal files."""


def plot(curve: CurveResult) -> str:
    """Draw a curve as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * len(curve.benchmarks), 3.8), layout="constrained")
        panels = figure.subplots(1, len(curve.benchmarks), squeeze=False)[0]
        for axes, benchmark in zip(panels, curve.benchmarks, strict=True):
            for one in curve.fitted(benchmark):
                _draw(axes, one)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("repeats: exposures / unique rows")
            axes.set_ylabel(f"{title(benchmark)}, {'nats' if Measure.of(benchmark).is_log_probability else '%'}")
            axes.set_title(f"{curve.recipe}: {title(benchmark)}")
            axes.legend(fontsize=7)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw(axes: Axes, one: FittedRows) -> None:
    color, name = COLORS[one.rows], NAMES[one.rows]
    largest = max(runs.exposures for runs in one.runs)
    shown = [runs for runs in one.runs if runs.exposures == largest and runs.values]
    repeats = [runs.repeats for runs in shown]
    for runs in shown:
        axes.plot([runs.repeats] * len(runs.values), [*runs.values.values()], ".", color=color, alpha=0.4, markersize=4)
    means = [float(np.mean([*runs.values.values()])) for runs in shown]
    label = f"{name}: R* {r_star_text(one.fit)}" if one.fit else f"{name}: no fit, {one.reason}"
    axes.plot(repeats, means, "o", color=color, label=label)
    if one.fit is None:
        return
    at = np.geomspace(1.0, max([*repeats, CLAIMED_REPEATS]), STEPS)
    fitted, low, high = one.fit.band(at)
    axes.plot(at, fitted, color=color)
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    if one.rows == "recipe":
        claimed = one.fit.band(np.array([CLAIMED_REPEATS]))[0]
        text = f"third-place team's claim, {CLAIMED_REPEATS} repeats: D'/U {worth(one.fit, CLAIMED_REPEATS)} here"
        axes.plot([CLAIMED_REPEATS], claimed, "D", color="black", markerfacecolor="white", label=text)
