"""Missing rotations of questions. In: a table of MMBench. Out: found and expected rows per question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from toolkit.evaluation.benchmarks.mmbench.table import GROUP, options_of

if TYPE_CHECKING:
    import pandas as pd


def mark_incomplete(result: dict[str, Any], table: pd.DataFrame, *, one_order: bool) -> dict[str, Any]:
    """Mark a result of :func:`metric.evaluate` if rotations are missing from its table.

    Returns:
        ``result``; if rotations are missing, with ``missing`` (their number), ``incomplete`` (the number of questions)
        and a ``protocol`` that begins with ``incomplete``.
    """
    short = missing_rotations(table, one_order=one_order)
    if not short:
        return result
    missing = sum(wanted - found for found, wanted in short.values())
    return {**result, "missing": missing, "incomplete": len(short), "protocol": f"incomplete, {result['protocol']}"}


def missing_rotations(table: pd.DataFrame, *, one_order: bool) -> dict[str, tuple[int, int]]:
    """Questions whose rotations are not all in a table, as in a truncated file.

    An option that is at the same position in every row of a question ("all of the above") is not rotated, as in the
    official dev file: four options, three rotations.

    Args:
        one_order: True accepts a table in which no question has a second row, as a benchmark without rotations.

    Returns:
        Rows found and rows expected, by the question's index without its rotation.
    """
    groups: dict[int, dict[int, list[str]]] = {}
    for row in table.drop(columns="image", errors="ignore").to_dict("records"):
        turn, question = divmod(int(row["index"]), GROUP)
        groups.setdefault(question, {})[turn] = options_of(row)
    if one_order and len(groups) == len(table):
        return {}
    counts = {str(question): (len(orders), _rotations(orders)) for question, orders in groups.items()}
    return {question: (found, wanted) for question, (found, wanted) in counts.items() if found < wanted}


def _rotations(orders: Mapping[int, list[str]]) -> int:
    """Number of rows that a question must have, derived from its options in the rows found, by rotation."""
    (start, first), *_ = orders.items()
    if len(orders) == 1:
        return len(first)
    for moving in range(len(first), 1, -1):
        for way in (1, -1):
            if all(_turned(first, moving, way * (turn - start)) == options for turn, options in orders.items()):
                return moving
    return sum(len(set(texts)) > 1 for texts in zip(*orders.values(), strict=False))


def _turned(options: list[str], moving: int, turns: int) -> list[str]:
    """Options with the first ``moving`` rotated."""
    at = turns % moving
    return options[at:moving] + options[:at] + options[moving:]
