"""Plots that fit into a table cell of the Dagster UI. In: numbers. Out: Markdown or text.

The UI strips raw HTML and hides Markdown of 1,000 characters or more behind a link. A plot is therefore one SVG path in
a ``data:`` URI with integer coordinates. No plotting library is imported: that would cost every step a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import quote

INLINE_LIMIT = 1000
"""Maximum length of Markdown that the UI shows inline."""
_WIDTH, _HEIGHT = 200, 48
_BARS = "▁▂▃▄▅▆▇█"


def histogram(edges: Sequence[float], counts: Sequence[int], *, bins: int = 20) -> str:
    """Draw a histogram as Markdown.

    Args:
        edges: ``len(counts) + 1`` increasing values.
        counts: rows per bin; neighbouring bins are merged until at most ``bins`` remain.

    Returns:
        An image with the range and the tallest bin as text; under ``INLINE_LIMIT`` characters. A bin with any rows is
        at least one pixel high.
    """
    if not counts or sum(counts) == 0:
        return "no rows"
    step = math.ceil(len(counts) / bins)
    merged = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    tallest = max(merged)
    width = max(1, _WIDTH // len(merged))
    heights = [max(1, round(count / tallest * _HEIGHT)) if count else 0 for count in merged]
    path = f"M0 {_HEIGHT}" + "".join(f"V{_HEIGHT - height}h{width}" for height in heights) + f"V{_HEIGHT}z"
    caption = f"{edges[0]:.4g} to {edges[-1]:.4g}, {len(merged)} bins, tallest {tallest:,} rows"
    return _within(f"{_image('histogram', path, fill='#4f7ecb')} {caption}", otherwise=caption)


def curve(values: Sequence[float], *, points: int = 40) -> str:
    """Draw a line, e.g. a loss curve, as Markdown; longer series are reduced to ``points`` means."""
    finite = [value for value in thin(values, points) if math.isfinite(value)]
    if not finite:
        return "no values"
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    step = _WIDTH // max(1, len(finite) - 1)
    path = "".join(
        f"{'L' if index else 'M'}{index * step} {round((high - value) / span * _HEIGHT)}"
        for index, value in enumerate(finite)
    )
    caption = f"from {finite[0]:.4g} to {finite[-1]:.4g}"
    return _within(f"{_image('curve', path, stroke='#4f7ecb')} {caption}", otherwise=caption)


def sparkline(values: Sequence[float], *, points: int = 30) -> str:
    """Draw a series as one line of block characters; a non-finite value is shown as ``!``."""
    shown = thin(values, points)
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return "!" * len(shown)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(
        _BARS[min(len(_BARS) - 1, int((value - low) / span * len(_BARS)))] if math.isfinite(value) else "!"
        for value in shown
    )


def thin(values: Sequence[float], points: int) -> list[float]:
    """Reduce ``values`` to at most ``points`` means of equal, consecutive parts."""
    if len(values) <= points:
        return [float(value) for value in values]
    cuts = [round(index * len(values) / points) for index in range(points + 1)]
    return [sum(values[start:stop]) / (stop - start) for start, stop in pairwise(cuts) if stop > start]


def _image(name: str, path: str, *, fill: str = "none", stroke: str = "none") -> str:
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>"
        f"<path fill='{fill}' stroke='{stroke}' d='{path}'/></svg>"
    )
    # Parentheses would end the Markdown link, so they are quoted too.
    quoted = quote(svg, safe="=/:,'")
    return f"![{name}](data:image/svg+xml,{quoted})"


def _within(markdown: str, *, otherwise: str) -> str:
    return markdown if len(markdown) < INLINE_LIMIT else otherwise
