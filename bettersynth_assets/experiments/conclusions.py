"""One sentence per arm that says what an experiment has shown. In: a leaderboard. Out: text."""

from __future__ import annotations

from collections.abc import Mapping

from bettersynth_assets.config.deciding import Measure
from bettersynth_assets.experiments.leaderboard import Against, Leaderboard, Row
from bettersynth_assets.experiments.sequential import MIN_SEEDS
from bettersynth_assets.experiments.verdict import Word

NO_QUESTIONS = "no interval: the metric does not follow from the questions' scores"
"""Stands for an interval over seeds and questions."""
TUNE_ONLY = "split tune: choose by these scores, and do not report them"


def conclusions(board: Leaderboard, *, baseline: str = "random rows") -> list[str]:
    """Return a sentence for each arm except the baseline, in the order of the rows; one more for the split ``tune``.

    Args:
        board: the leaderboard.
        baseline: words for the baseline.
    """
    runs = {row.arm: row.runs for row in board.rows}
    sentences = [
        conclusion(row, baseline, first_look=board.counts[0], baseline_runs=runs[board.baseline])
        for row in board.rows
        if row.arm != board.baseline
    ]
    return [*sentences, TUNE_ONLY] if board.split == "tune" else sentences


def conclusion(row: Row, baseline: str, *, first_look: int, baseline_runs: int) -> str:
    """Return the sentence of one arm: "third_place is better than random rows: TextVQA +21.7 [15.2, 28.2], …"."""
    fewest = min(row.runs, baseline_runs)
    if any(against.value is None for against in row.to_baseline.values()):
        needed = f"{MIN_SEEDS} are the fewest" if fewest < MIN_SEEDS else f"the first look is at {first_look}"
        return f"{row.arm} and {baseline}: too few seeds ({fewest}; {needed}), no comparison"
    words = {against.verdict for against in row.to_baseline.values()}
    if words in ({Word.BETTER.value}, {Word.WORSE.value}):
        return f"{row.arm} is {words.pop()} than {baseline}: {_figures(row.to_baseline)}"
    if len(words) == 1 and (word := next(iter(words))).startswith(Word.EQUIVALENT.value):
        return f"{row.arm} and {baseline} are {word} points: {_figures(row.to_baseline)}"
    if all(word.startswith(Word.INDISTINGUISHABLE.value) for word in words):
        figures = _figures(row.to_baseline, with_verdict=True).replace(f"{Word.INDISTINGUISHABLE.value} ", "")
        return f"{row.arm} and {baseline} are indistinguishable: {figures}"
    return f"{row.arm} against {baseline}: {_figures(row.to_baseline, with_verdict=True)}"


def sentences(board: Leaderboard) -> list[str]:
    """Return all sentences about an experiment: those of its arms, then warnings about benchmarks."""
    return [*conclusions(board), *near_floor(board)]


def near_floor(board: Leaderboard) -> list[str]:
    """Return a sentence for each benchmark in which the baseline is near the chance level."""
    (row,) = [row for row in board.rows if row.arm == board.baseline]
    found = []
    for name in board.near_floor:
        mean, chance = row.means[name], board.chance[name]
        level = "0, as its chance level is not known" if chance is None else f"the chance level {chance:.2f}"
        found.append(
            f"{title(name)} is near its floor: the {board.baseline} has {mean.mean:.1f} with a standard deviation of "
            f"{mean.sd:.1f} over seeds, close to {level}; ratios to it are large and unstable"
        )
    return found


def title(benchmark: str) -> str:
    """Return the name of a benchmark, or of another metric of it, as people write it."""
    return Measure.of(benchmark).title


def difference(against: Against, benchmark: str) -> str:
    """Format a difference with its interval: ``+21.7 [15.2, 28.2]``."""
    assert against.value is not None and against.low is not None and against.high is not None
    return interval(against.value, against.low, against.high, benchmark)


def interval(value: float, low: float, high: float, benchmark: str) -> str:
    """Format a difference with its interval, with the decimals of the metric."""
    digits = Measure.of(benchmark).digits
    return f"{value:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _figures(found: Mapping[str, Against], *, with_verdict: bool = False) -> str:
    return ", ".join(
        f"{title(name)} {difference(one, name)}" + (f" {one.verdict}" if with_verdict else "")
        for name, one in found.items()
    )
