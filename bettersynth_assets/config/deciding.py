"""Measures by which an experiment decides. In: an entry of ``decide.benchmarks``. Out: benchmark, metric and unit.

::

    textvqa                 the benchmark's headline metric
    mmbench/row_accuracy    another metric of it: in percent, or a log-probability in nats; higher is better
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.suggest import nearest

LOG_PROBABILITIES = ("log_probability_per_token", "log_probability_per_character")
"""Metrics of every benchmark whose questions have one right answer."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One deciding metric; ``metric`` is None for the headline of the benchmark."""

    benchmark: str
    metric: str | None

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the measure of an entry."""
        benchmark, _, metric = name.partition("/")
        return cls(benchmark=benchmark, metric=metric or None)

    @property
    def title(self) -> str:
        """Return the name as people write it."""
        known = self.benchmark in BENCHMARKS.names()
        title = BENCHMARKS.get(self.benchmark).title if known else self.benchmark
        return f"{title} {self.metric}" if self.metric else title

    @property
    def is_log_probability(self) -> bool:
        return self.metric in LOG_PROBABILITIES

    @property
    def unit(self) -> str:
        """Return the unit of differences."""
        return "nats" if self.is_log_probability else "points"

    @property
    def digits(self) -> int:
        """Return the decimals in texts: differences of log-probabilities are a few hundredths."""
        return 3 if self.is_log_probability else 1


def check_metric(name: str) -> None:
    """Check the metric of an entry as far as its benchmark is registered.

    Names of parts of a metric, ``<metric>/<part>``, depend on the questions; ``read_scores`` checks them.

    Raises:
        ValueError: a metric by which no experiment can decide; names those of the benchmark.
    """
    measure = Measure.of(name)
    if name.endswith("/"):
        raise ValueError(f"{name!r} has no metric: write {measure.benchmark}, or {measure.benchmark}/<metric>")
    if measure.metric is None or measure.benchmark not in BENCHMARKS.names():
        return
    if not can_decide(measure.benchmark, measure.metric):
        known = _other_metrics(measure.benchmark)
        raise ValueError(
            f"{name}: {measure.benchmark} has no metric {measure.metric!r} to decide by besides its headline, which "
            f"{measure.benchmark!r} alone stands for: {nearest(measure.metric, known)}"
        )


def can_decide(benchmark: str, metric: str) -> bool:
    """Tell whether an experiment can decide by a metric of a registered benchmark besides its headline."""
    return metric.partition("/")[0] in _other_metrics(benchmark)


def _other_metrics(benchmark: str) -> tuple[str, ...]:
    own = BENCHMARKS.get(benchmark).other_metrics if benchmark in BENCHMARKS.names() else ()
    return (*own, *LOG_PROBABILITIES)
