"""Rates, time left and progress lines of long loops. In: how much is done. Out: numbers and log lines."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 5.0


class Pace:
    """Stopwatch of a loop: its rate, the time left, and when to report next."""

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Start.

        Args:
            seconds: time between two reports; None for ``SECONDS_BETWEEN_LINES``.
            clock: returns seconds.
        """
        self._seconds = SECONDS_BETWEEN_LINES if seconds is None else seconds
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Start again."""
        self._start = self._reported = self._clock()

    def rate(self, count: int) -> float:
        """Return ``count`` per second since the start."""
        return count / self._elapsed()

    def left(self, done: int, total: int) -> float:
        """Return the seconds until the end at the mean rate so far; 0 if nothing is done."""
        return self._elapsed() / done * (total - done) if done else 0.0

    def due(self) -> bool:
        """Return whether it is time for a report, at most once in the given time."""
        now = self._clock()
        if now - self._reported < self._seconds:
            return False
        self._reported = now
        return True

    def _elapsed(self) -> float:
        return max(self._clock() - self._start, 1e-9)


class Progress:
    """Logs what is done, rows/s and the time left, every few seconds and at the end."""

    def __init__(
        self, log: Callable[[str], None], what: str, total: int, *,
        unit: str = "rows", logs_end: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Start.

        Args:
            log: receives the lines.
            what: begins each line.
            total: number of units.
            unit: what is counted: ``rows``, or e.g. ``shards``, each with a number of rows.
            logs_end: whether the last unit is logged; all others are logged only if a line is due.
            clock: returns seconds.
        """
        self._log, self._what, self._total, self._unit, self._logs_end = log, what, total, unit, logs_end
        self._pace = Pace(clock=clock)
        self._rows = 0
        self.done = 0

    def add(self, count: int, *, rows: int | None = None) -> None:
        """Count finished units; ``rows`` is their number of rows if the unit is another one."""
        self.done += count
        self._rows += count if rows is None else rows
        if self._logs_end if self.done == self._total else self._pace.due():
            speed = f"{self._pace.rate(self._rows):.1f} rows/s"
            if self._unit != "rows":
                speed = f"{self._rows} rows, {speed} including start-up"
            left = self._pace.left(self.done, self._total)
            self._log(f"{self._what}: {self.done}/{self._total} {self._unit}, {speed}, {left:.0f} s left")
