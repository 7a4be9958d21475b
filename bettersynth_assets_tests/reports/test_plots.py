"""Plots are small enough to be shown inline and describe what they show."""

import math
from urllib.parse import unquote

from bettersynth_assets.reports.plots import INLINE_LIMIT, curve, histogram, sparkline, thin


def heights(markdown: str) -> list[int]:
    """Return the bar heights in the path of the SVG."""
    path = unquote(markdown).split(" d='M0 48")[1].split("'")[0]
    return [48 - int(part.split("h")[0]) for part in path.split("V")[1:-1]]


def test_a_histogram_is_shown_inline_with_every_bin():
    markdown = histogram([0.0, 1.0, 2.0, 3.0], [10, 0, 5])
    assert heights(markdown) == [48, 0, 24]
    assert "0 to 3" in markdown
    assert len(markdown) < INLINE_LIMIT


def test_a_single_row_next_to_a_million_is_still_visible():
    assert heights(histogram([0.0, 1.0, 2.0], [1_000_000, 1])) == [48, 1]


def test_many_bins_are_merged_without_losing_rows():
    counts = list(range(100))
    markdown = histogram([float(value) for value in range(101)], counts)
    assert len(heights(markdown)) == 20
    assert f"tallest {sum(range(95, 100)):,} rows" in markdown
    assert len(markdown) < INLINE_LIMIT


def test_a_histogram_contains_no_parenthesis_that_would_end_the_markdown_link():
    uri = histogram([0.0, 1.0], [3]).split("](", 1)[1].split(") ", 1)[0]
    assert uri.startswith("data:image/svg+xml,")
    assert not set("()<> #") & set(uri)


def test_an_empty_histogram_is_reported_as_empty():
    assert histogram([], []) == "no rows"
    assert histogram([0.0, 1.0], [0]) == "no rows"


def test_a_long_loss_curve_is_thinned_to_fit_inline():
    markdown = curve([5 / (step + 1) for step in range(10_000)])
    assert markdown.startswith("![curve](data:")
    assert len(markdown) < INLINE_LIMIT


def test_a_sparkline_shows_lowest_highest_and_non_finite_values():
    assert sparkline([0.0, 7.0, math.nan]) == "▁█!"
    assert sparkline([2.0, 2.0]) == "▁▁"


def test_thinning_keeps_the_mean():
    assert thin([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0]
    assert thin([1.0, 2.0], 5) == [1.0, 2.0]
