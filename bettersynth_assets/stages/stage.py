"""What a stage is. In: a function on tables. Out: that function with what its output depends on, for the engine.

A stage's function is given a ``Work`` and gives back a ``Result``; it writes no tables and knows no keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.checks.rules import Rule
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.records.schema import QUARANTINE, REJECTS
from bettersynth_assets.records.store import Manifest, write_table

Log = Callable[[str], None]
Inputs = Mapping[str, list[Manifest]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a stage's function gives back; the engine writes the tables."""

    rows_in: int
    kept: pa.Table
    rejects: pa.Table = field(default_factory=REJECTS.empty_table)
    quarantine: pa.Table = field(default_factory=QUARANTINE.empty_table)
    stats: dict[str, Any] = field(default_factory=dict)
    """Small JSON values for metadata and for later stages (thresholds, histograms)."""
    files: tuple[str, ...] = ()
    """Further files that the function wrote into ``Work.folder``, relative to it."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage's function is given."""

    settings: Settings
    shard: str
    folder: Path
    inputs: Inputs
    log: Log

    def log_with_shard(self, line: str) -> None:
        """Log a line that does not say which shard it is of; workers' lines come mixed."""
        self.log(f"{line} ({self.shard})")

    def rows(self, stage: str, table: str = "kept") -> pa.Table:
        """All rows of an input, in shard order."""
        return pa.concat_tables([manifest.table(table) for manifest in self.inputs[stage]])

    def memo(self, name: str, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """A costly table on the way to the result, kept beside the shard's versions.

        Args:
            name: of the table, e.g. ``captions``.
            key: hash of everything that the table depends on, which is less than the result does.
            make: called only where no table of this key is there; older ones are then removed.
        """
        path = self.folder.parent / f"{name}-{key[:12]}.parquet"
        if not path.is_file():
            write_table(path, make())
            for old in path.parent.glob(f"{name}-*.parquet"):
                if old != path:
                    old.unlink()
        return pq.read_table(path)

    def stats(self, stage: str) -> dict[str, Any]:
        """Stats of an input that is not sharded."""
        (manifest,) = self.inputs[stage]
        return manifest.stats


def nothing_more(settings: Settings) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a row's journey. Its functions are a module's own, so that it can be sent to worker processes."""

    name: str
    version: int
    """Raise it when the same input would give another output."""
    run: Callable[[Work], Result]
    depends: Callable[[Settings, str, Inputs], object]
    """JSON value of whatever else the output depends on: sections of the recipe, fingerprints of models or files."""
    sharded: bool
    inputs: tuple[str, ...] = ()
    by_value: tuple[str, ...] = ()
    """Inputs of which only what ``depends`` takes counts, e.g. one threshold, and not every byte."""
    also: Callable[[Settings], tuple[str, ...]] = nothing_more
    """Further inputs that only some recipes ask for; the others neither make nor read them."""
    shared: bool = False
    """True where no recipe changes the output: kept once for all recipes."""
    libraries: tuple[str, ...] = ()
    resume: bool = False
    """True where the function can go on from what a killed run left in its folder."""
    columns: pa.Schema | None = None
    """Schema of the kept rows of a set of image-text pairs; None for other sets."""
    rules: tuple[Rule, ...] = ()
    """Checks of the set. No stage reads a set that fails one of its blocking rules."""
