"""An operator that is ready to run. In: rows. Out: measurements in the rows, errors of rows, and which it refuses.

Each kind is a subclass: filters and mappers (``apply``), image classifiers (``image_classifiers``), operators on the
whole dataset (``dataset_operators``). ``data_juicer`` builds them; ``process`` runs a list without knowing the kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bettersynth_assets.models.batching import ProgressCallback, no_progress
from bettersynth_assets.operators.operator_calls import FIX
from bettersynth_assets.operators.rows import Row

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP

Errors = dict[int, BaseException]
"""What an operator raised about a row, by the row's position."""
Refusals = dict[int, tuple[float | None, str]]
"""The refused value, None if there is none, and the reason as text, by the row's position."""


@dataclass(frozen=True, kw_only=True)
class BuiltOperator(ABC):
    """One operator, ready to run."""

    name: str
    limits: str
    """The recipe's arguments with resolved limits, as JSON, for the table of rejects."""
    operator: OP
    """The operator's object of Data-Juicer."""
    rank: int | None
    """GPU number for operators with a model; None for the CPU."""
    reads: frozenset[str] = frozenset()
    """Columns named by its arguments."""

    is_filter: ClassVar[bool] = False
    needs_set: ClassVar[bool] = False
    """True for Deduplicators and Selectors, which judge all rows at once."""
    fix: ClassVar[str] = FIX
    """What the user can do if it fails on all rows."""

    @property
    def on_rank(self) -> dict[str, int]:
        """The argument by which Data-Juicer's methods choose a GPU."""
        return {} if self.rank is None else {"rank": self.rank}

    @abstractmethod
    def measure(
        self, rows: list[Row], later: Sequence[BuiltOperator] = (), on_batch: ProgressCallback = no_progress
    ) -> Errors:
        """Measure rows, or change their captions; a row with an error stays unchanged.

        Args:
            rows: the rows that reach it.
            later: operators that some of the rows will reach.
            on_batch: called after each batch.
        """

    @abstractmethod
    def refused(self, rows: list[Row]) -> tuple[Refusals, Errors]:
        """Decide which of the measured rows it refuses."""
