"""The comparisons of an experiment as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.conclusions import NO_QUESTIONS, interval, title

HEADS = ("arm", "other", "benchmark", "seeds", "difference", "with other questions", "p, Holm", "verdict")


def as_markdown(comparisons: Sequence[Comparison]) -> str:
    """Format one line per comparison."""
    rows = [HEADS, ("---",) * len(HEADS), *map(_cells, comparisons)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(one: Comparison) -> tuple[str, ...]:
    names = (one.arm, one.other, title(one.benchmark))
    if one.estimate is None or one.p_adjusted is None:
        return (*names, "", "", "", "", str(one.verdict))
    found, wider = one.estimate, one.estimate.generalising
    digits = Measure.of(one.benchmark).digits
    return (
        *names,
        str(found.seeds),
        interval(found.value, found.low, found.high, one.benchmark),
        f"[{wider[0]:.{digits}f}, {wider[1]:.{digits}f}]" if wider else NO_QUESTIONS,
        f"{one.p_adjusted:.3g}",
        str(one.verdict),
    )
