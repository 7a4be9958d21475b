"""Explains why a filter rejects a row. In: a filter and a row with its stats. Out: the value and a reason.

A ``RowFilter`` reports its reason. Data-Juicer's filters return a bool; nearly all of them compare through
``get_keep_boolean``, whose calls are recorded while a filter decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.rows import Row, columns, scalar
from bettersynth_assets.operators.sample import STATS

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP


@contextmanager
def _recorded(operator: OP) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Record (value, low, high) of each comparison by which an operator of Data-Juicer refuses a row."""
    refused: list[tuple[Any, Any, Any]] = []
    original = type(operator).get_keep_boolean

    def recording(value: Any, min_val: Any = None, max_val: Any = None) -> bool:
        keeps = original(operator, value, min_val, max_val)
        if not keeps:
            refused.append((value, min_val, max_val))
        return keeps

    operator.get_keep_boolean = recording
    try:
        yield refused
    finally:
        del operator.get_keep_boolean


def refusal(built: BuiltOperator, row: Row) -> tuple[float | None, str] | None:
    """Ask a filter whether it keeps a row; call it through ``operator_calls.attempt``.

    Returns:
        None if it keeps the row, else the refused value and the reason.
    """
    from bettersynth_assets.operators.row_filter import RowFilter

    if isinstance(built.operator, RowFilter):
        rejection = built.operator.reject({**row.sample, STATS: dict(row.sample[STATS])})
        return None if rejection is None else (None if rejection[0] is None else float(rejection[0]), str(rejection[1]))
    with _recorded(built.operator) as refused:
        answers = list(built.operator.process(columns([row])))
    if len(answers) != 1:
        raise ValueError(f"it gave {len(answers)} answers about one row")
    if bool(answers[0]):
        return None
    if not refused or not all(isinstance(limit, int | float | None) for limit in refused[-1][1:]):
        return None, f"refused by {built.name}"
    value, low, high = refused[-1]
    if not isinstance(value, int | float) and not hasattr(value, "__float__"):
        return None, f"refused by {built.name}: {value!r}"
    is_low = low is not None and not value >= low
    limit = low if is_low or high is None else high
    stat, argument = _names(built, row, value, limit)
    sign = "<" if is_low else ">" if high is not None and value > high else "beside"
    return float(value), f"{stat} {value:.6g} {sign} {argument} {limit:.6g}"


def _names(built: BuiltOperator, row: Row, value: Any, limit: Any) -> tuple[str, str]:
    """Find the stat with the value and the argument with the limit: width belongs to max_width."""
    stat_values = {name: scalar(found) for name, found in row.sample[STATS].items()}
    stats = [
        name for name, known in stat_values.items() if (value in known if isinstance(known, list) else value == known)
    ]
    stats = stats or ["value"]
    numbers = {name: number for name, number in vars(built.operator).items() if not isinstance(number, bool)}
    arguments = [name for name, number in numbers.items() if number is limit or number == limit] or ["limit"]
    pairs = [(stat, name) for stat in stats for name in arguments]
    return next((pair for pair in pairs if pair[1].split("_")[-1] in pair[0].split("_")), pairs[-1])
