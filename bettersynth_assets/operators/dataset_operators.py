"""Operators that need all rows at once: Deduplicators and Selectors. In: rows, an operator. Out: who goes, and why.

Two steps, as for filters: first each row is measured by itself (hash, embedding), so that a row whose image is broken
is quarantined alone; then the set is judged, and every row that does not stay gets a reason. Ours say for themselves
which rows go. Data-Juicer's give back a smaller data set; the rows that are missing in it are seen by numbers given to
them.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.batching import Done, untold
from bettersynth_assets.operators.apply import Row, retried
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.guarded import FIX, attempt, guarded
from bettersynth_assets.operators.sample import EMBEDDING, META, STATS

AT_ONCE = 4096
"""Rows that are measured together; a multiple of every batch size that is a power of two."""
PLACE = "__place__"
SEED = 1024
"""Of Data-Juicer's selectors, which draw from Python's and numpy's global generators without a seed."""
SAME = {"__dj__hash": "text", "__dj__imagehash": "image"}
"""Data-Juicer's columns of exact hashes: what two rows with the same one share."""


def measure_rows(built: BuiltOperator, rows: list[Row], done: Done = untold) -> dict[int, BaseException]:
    """Measure each row by itself; ``done`` is told of rows that are measured.

    Returns:
        What went wrong, by the row's position.
    """
    failed: dict[int, BaseException] = {}
    name = getattr(built.operator, "measures", None)
    if name is not None:  # one of ours, which gives back errors of rows
        rank = {} if built.rank is None else {"rank": built.rank}
        unknown = [index for index, row in enumerate(rows) if name not in row.sample]
        for first in range(0, len(unknown), AT_ONCE):
            part = unknown[first : first + AT_ONCE]
            for index, measure in zip(
                part, built.operator.measure([rows[at].sample for at in part], **rank), strict=True
            ):
                if isinstance(measure, ImageError):
                    failed[index] = measure
                else:
                    rows[index].sample[name] = measure
                    rows[index].measured |= {name} - {EMBEDDING}
            done(len(part))
    elif hasattr(built.operator, "compute_hash"):
        for index, row in enumerate(rows):
            hashed, error = attempt(lambda row=row: _hashed(built, row))  # type: ignore[misc]
            if error is not None:
                failed[index] = error
            elif hashed is not None:
                row.measured |= hashed.keys() - row.sample.keys()
                row.sample = hashed
            done(1)
    return failed


def _hashed(built: BuiltOperator, row: Row) -> dict[str, Any]:
    return retried(lambda: dict(built.operator.compute_hash(dict(row.sample))), row.sample["images"])


def judge_set(built: BuiltOperator, rows: list[Row]) -> dict[int, tuple[float | None, str]]:
    """Let an operator choose among measured rows.

    Returns:
        By the position of a row that goes: the value (None where there is none), and the reason in words.

    Raises:
        ConfigError: the operator gives back rows that it was not given, or one twice.
    """
    samples = [row.sample for row in rows]
    fix = f"{FIX} (a row has {known_fields(rows)})"
    with guarded(built.name, built.limits, f"on the whole set of {len(rows)} rows", fix):
        if hasattr(built.operator, "verdicts"):
            gone: dict[int, tuple[float | None, str]] = built.operator.verdicts(samples)
        else:
            gone = _missing(built, samples, {name for row in rows for name in row.measured})
    for row in rows:
        row.sample = {name: value for name, value in row.sample.items() if name not in row.measured}
        row.measured = set()
    return gone


def known_fields(rows: list[Row]) -> str:
    """Fields and stats of a row, for errors of operators that look for another one."""
    if not rows:
        return "no row"
    fields = sorted(rows[0].sample.keys() - {STATS, META, EMBEDDING} - rows[0].measured)
    return f"the fields {', '.join(fields)} and the stats {', '.join(sorted(rows[0].sample[STATS])) or 'none'}"


def _missing(
    built: BuiltOperator, samples: list[dict[str, Any]], measured: set[str]
) -> dict[int, tuple[float | None, str]]:
    """The rows that are not in what an operator of Data-Juicer gives back."""
    from data_juicer.core.data import NestedDataset

    if not samples:
        return {}
    # A column of Arrow has one type, so that extra fields which are numbers here and text there would not fit: the
    # operator gets those that its arguments name.
    named = {"id", "text", "images", STATS, *measured, *built.reads}
    columns = sorted({name for sample in samples for name in sample} & named)
    given = [{name: sample.get(name) for name in columns} | {PLACE: place} for place, sample in enumerate(samples)]
    with _seeded(), redirect_stderr(io.StringIO()):  # progress bars; what fails is raised
        left = built.operator.process(NestedDataset.from_list(given))
    left = left[0] if isinstance(left, tuple) else left
    places = list(left[PLACE])
    stays = {*places}
    if len(stays) != len(places) or not stays <= {*range(len(samples))}:
        raise ConfigError(f"operator {built.name!r} gave back a row twice; a recipe takes operators that only choose")
    if list(left["text"]) != [samples[place]["text"] for place in places]:
        raise ConfigError(f"operator {built.name!r} changed texts; a recipe takes operators that only choose")
    hashed = next((name for name in SAME if name in samples[0]), None)
    first = {samples[place][hashed]: place for place in sorted(stays, reverse=True)} if hashed else {}
    gone: dict[int, tuple[float | None, str]] = {}
    for place, sample in enumerate(samples):
        if place in stays:
            continue
        twin = first.get(sample[hashed]) if hashed else None
        reason = f"refused by {built.name}"
        if hashed and twin is not None:
            reason = f"{SAME[hashed]} is that of row {samples[twin]['id']!r}, which stays"
        gone[place] = (None, reason)
    return gone


@contextmanager
def _seeded() -> Iterator[None]:
    """Give the global generators a seed, and what they were afterwards."""
    theirs, numpys = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(theirs)
        np.random.set_state(numpys)
