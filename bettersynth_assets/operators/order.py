"""The cheapest order of a recipe's operators. In: each operator's measured cost and rejected share. Out: positions.

For independent filters the expected time is lowest in ascending order of cost / rejected share. Shares are measured on
the sample, each operator on the same rows, so filters that reject the same rows (small images are often badly matched
too) are treated as independent; a wrong guess costs time but no rows. The kept set does not depend on the order,
because only filters move, and only past filters. A mapper changes what later operators read, and a whole-dataset
operator depends on the rows that reach it, so both are fences. Filters of one name keep the recipe's order among
themselves, since Data-Juicer stores one stat per name, written by the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOVES = "moves"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements of one operator on the sample."""

    name: str
    is_filter: bool
    needs_set: bool = False
    rows: int
    rejected: int
    quarantined: int = 0
    seconds: float
    """Seconds for all ``rows``, without loading the model."""
    load_seconds: float = 0.0
    """Seconds of its first call, including loading its model."""

    @property
    def cost(self) -> float:
        """Seconds per row."""
        return self.seconds / self.rows

    @property
    def share_kept(self) -> float:
        """Share of the rows that pass."""
        return 1 - (self.rejected + self.quarantined) / self.rows

    @property
    def cost_per_reject(self) -> float:
        """Seconds per rejected row; infinite if none is rejected. Failing rows do not count as rejected."""
        return self.seconds / self.rejected if self.rejected else math.inf

    @property
    def moves(self) -> str:
        """``moves``, or why it does not."""
        if self.needs_set:
            return "fence: judges the whole set that reaches it"
        return MOVES if self.is_filter else "fence: a mapper changes what later operators read"


def planned_order(operators: Sequence[Measured]) -> list[int]:
    """Return positions in the recipe, in the order of least expected time.

    Ties keep the recipe's order; filters that reject nothing come last between their fences.
    """
    order: list[int] = []
    group: list[int] = []
    for position, operator in enumerate(operators):
        if operator.moves == MOVES:
            group.append(position)
        else:
            order += [*_sorted_group(operators, group), position]
            group = []
    return order + _sorted_group(operators, group)


def _sorted_group(operators: Sequence[Measured], group: list[int]) -> list[int]:
    """Sort filters between two fences by cost per rejected row; filters of one name keep the recipe's order."""
    cheapest = sorted(group, key=lambda position: operators[position].cost_per_reject)
    names = {operators[position].name for position in group}
    remaining = {name: iter([position for position in group if operators[position].name == name]) for name in names}
    return [next(remaining[operators[position].name]) for position in cheapest]


def predicted_seconds(operators: Sequence[Measured], order: Sequence[int], rows: int) -> float:
    """Expected seconds for ``rows`` rows in this order: loading once, then each operator on the rows that reach it."""
    seconds, reaching = 0.0, float(rows)
    for position in order:
        operator = operators[position]
        seconds += operator.load_seconds + reaching * operator.cost
        reaching *= operator.share_kept
    return seconds
