"""The comparisons of an experiment as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from bettersynth_assets.experiments.comparison import Comparison
from bettersynth_assets.experiments.conclusions import title

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
    return (
        *names,
        str(found.seeds),
        f"{found.value:+.1f} [{found.low:.1f}, {found.high:.1f}]",
        f"[{wider[0]:.1f}, {wider[1]:.1f}]" if wider else "",
        f"{one.p_adjusted:.3g}",
        str(one.verdict),
    )
