"""Operators on the whole dataset: Deduplicators and Selectors. In: rows, an operator. Out: removed rows with reasons.

There are two steps, as for filters. First each row is measured alone (hash, embedding), so that a row with a broken
image is quarantined alone. Then the dataset is judged, and every removed row gets a reason. Our operators report
removed rows themselves. Data-Juicer's return a smaller dataset; the missing rows are found by numbers added to them.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.batching import ProgressCallback, no_progress
from bettersynth_assets.operators.built import BuiltOperator, Errors, Refusals
from bettersynth_assets.operators.operator_calls import FIX, attempt, operator_context, retried
from bettersynth_assets.operators.rows import Row, known_fields
from bettersynth_assets.operators.sample import EMBEDDING, STATS

AT_ONCE = 4096
"""Rows that are measured together; a multiple of all batch sizes that are powers of two."""
POSITION = "__position__"
RANDOM_SEED = 1024
"""Random seed for Data-Juicer's selectors, which use Python's and numpy's global generators unseeded."""
SAME = {"__dj__hash": "text", "__dj__imagehash": "image"}
"""Data-Juicer's columns of exact hashes, and what rows with equal hashes share."""


@dataclass(frozen=True, kw_only=True)
class BuiltSetOperator(BuiltOperator):
    """A Deduplicator or Selector."""

    needs_set: ClassVar[bool] = True

    def measure(
        self, rows: list[Row], later: Sequence[BuiltOperator] = (), on_batch: ProgressCallback = no_progress
    ) -> Errors:
        """Measure each row alone."""
        failed: Errors = {}
        name = getattr(self.operator, "measures", None)
        if name is not None:  # one of ours, which returns errors of rows
            unmeasured = [index for index, row in enumerate(rows) if name not in row.sample]
            for first in range(0, len(unmeasured), AT_ONCE):
                positions = unmeasured[first : first + AT_ONCE]
                measures = self.operator.measure([rows[position].sample for position in positions], **self.on_rank)
                for index, measure in zip(positions, measures, strict=True):
                    if isinstance(measure, ImageError):
                        failed[index] = measure
                    else:
                        rows[index].sample[name] = measure
                        rows[index].measured |= {name} - {EMBEDDING}
                on_batch(len(positions))
        elif hasattr(self.operator, "compute_hash"):
            for index, row in enumerate(rows):
                hashed, error = attempt(lambda row=row: self._hashed(row))  # type: ignore[misc]
                if error is not None:
                    failed[index] = error
                elif hashed is not None:
                    row.measured |= hashed.keys() - row.sample.keys()
                    row.sample = hashed
                on_batch(1)
        return failed

    def _hashed(self, row: Row) -> dict[str, Any]:
        return retried(lambda: dict(self.operator.compute_hash(dict(row.sample))), row.sample["images"])

    def refused(self, rows: list[Row]) -> tuple[Refusals, Errors]:
        """Let the operator choose among measured rows.

        Raises:
            ConfigError: the operator returns unknown rows, or a row twice.
        """
        samples = [row.sample for row in rows]
        fix = f"{FIX} (a row has {known_fields(rows)})"
        with operator_context(self.name, self.limits, f"on the whole set of {len(rows)} rows", fix):
            if hasattr(self.operator, "verdicts"):
                removed: Refusals = self.operator.verdicts(samples)
            else:
                removed = _removed_by_data_juicer(self, samples, {name for row in rows for name in row.measured})
        for row in rows:
            row.sample = {name: value for name, value in row.sample.items() if name not in row.measured}
            row.measured = set()
        return removed, {}


def _removed_by_data_juicer(built: BuiltOperator, samples: list[dict[str, Any]], measured: set[str]) -> Refusals:
    """Find the rows that an operator of Data-Juicer does not return."""
    from data_juicer.core.data import NestedDataset

    if not samples:
        return {}
    # An Arrow column has one type, so extra fields that are numbers in some rows and text in others would not fit. The
    # operator only gets those that its arguments name.
    named = {"id", "text", "images", STATS, *measured, *built.reads}
    columns = sorted({name for sample in samples for name in sample} & named)
    records = [
        {name: sample.get(name) for name in columns} | {POSITION: position} for position, sample in enumerate(samples)
    ]
    with _seeded(), redirect_stderr(io.StringIO()):  # hides progress bars; failures are raised
        kept = built.operator.process(NestedDataset.from_list(records))
    kept = kept[0] if isinstance(kept, tuple) else kept
    positions = list(kept[POSITION])
    kept_positions = {*positions}
    if len(kept_positions) != len(positions) or not kept_positions <= {*range(len(samples))}:
        raise ConfigError(
            f"operator {built.name!r} returned a row twice; a recipe accepts operators that only choose rows: remove it"
        )
    if list(kept["text"]) != [samples[position]["text"] for position in positions]:
        raise ConfigError(
            f"operator {built.name!r} changed texts; a recipe accepts operators that only choose rows: remove it"
        )
    hashed = next((name for name in SAME if name in samples[0]), None)
    first = {samples[position][hashed]: position for position in sorted(kept_positions, reverse=True)} if hashed else {}
    removed: Refusals = {}
    for position, sample in enumerate(samples):
        if position in kept_positions:
            continue
        twin = first.get(sample[hashed]) if hashed else None
        reason = f"refused by {built.name}"
        if hashed and twin is not None:
            reason = f"{SAME[hashed]} is that of row {samples[twin]['id']!r}, which stays"
        removed[position] = (None, reason)
    return removed


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the global generators and restore their states afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(RANDOM_SEED)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
