"""Rates, time left and progress lines, with a clock that the test sets."""

from __future__ import annotations

import pytest

from toolkit.progress import Pace, Progress


class Clock:
    """Seconds that only a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_and_time_left_are_those_since_the_start_or_restart() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    clock.now += 4
    assert (pace.rate(20), pace.left(10, 30), pace.left(0, 30)) == (5.0, 8.0, 0.0)
    pace.restart()
    clock.now += 2
    assert pace.rate(20) == 10.0


def test_a_report_is_due_once_in_the_given_time() -> None:
    clock = Clock()
    pace = Pace(10.0, clock)
    due = []
    for _ in range(6):
        clock.now += 4
        due.append(pace.due())
    assert due == [False, False, True, False, False, True]


def test_lines_are_logged_when_due_and_at_the_end() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, "scores shard-00000", 40, clock=clock)
    for _ in range(4):
        clock.now += 4
        progress.add(10)
    assert lines == [
        "scores shard-00000: 20/40 rows, 2.5 rows/s, 8 s left",
        "scores shard-00000: 40/40 rows, 2.5 rows/s, 0 s left",
    ]


def test_the_end_is_not_logged_if_the_caller_logs_it() -> None:
    lines = list[str]()
    Progress(lines.append, "filter", 5, logs_end=False, clock=Clock()).add(5)
    assert lines == []


@pytest.mark.parametrize("total", [2, 3])
def test_shards_are_counted_with_their_rows(total: int) -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(lines.append, "scores", total, unit="shards", clock=clock)
    for rows in (30, 10):
        clock.now += 5
        progress.add(1, rows=rows)
    assert lines == [
        f"scores: 1/{total} shards, 30 rows, 6.0 rows/s including start-up, {5 * (total - 1)} s left",
        f"scores: 2/{total} shards, 40 rows, 4.0 rows/s including start-up, {5 * (total - 2)} s left",
    ]
