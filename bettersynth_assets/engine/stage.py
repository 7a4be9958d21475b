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

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.rules import Rule
from bettersynth_assets.engine.store import Manifest, write_table
from bettersynth_assets.records.input_files import Versions
from bettersynth_assets.records.schema import QUARANTINE, REJECTS
from toolkit.files import file_sha256

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
    other_files: tuple[str, ...] = ()
    """Files that are verified like ``files`` but are not part of the digest: they hold seconds or paths."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage's function is given."""

    settings: Settings
    shard: str
    folder: Path
    inputs: Inputs
    log: Log
    memos: list[str] = field(default_factory=list)
    """Names of the memos that the function has asked for."""

    def log_with_shard(self, line: str) -> None:
        """Log a line that does not say which shard it is of; workers' lines come mixed."""
        self.log(f"{line} ({self.shard})")

    def rows(self, stage: str, table: str = "kept") -> pa.Table:
        """All rows of an input, in shard order."""
        return pa.concat_tables([manifest.table(table) for manifest in self.inputs[stage]])

    def memo(self, name: str, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """A costly table on the way to the result, kept next to the shard's versions, whose hash is in its name.

        It outlives a killed run. Older ones are removed when the version that was made with this one is committed.

        Args:
            name: of the table, e.g. ``captions``.
            key: hash of everything that the table depends on, which is less than the result does.
            make: called only where no undamaged table of this key is there.
        """
        folder, stem = self.folder.parent, f"{name}-{key[:12]}"
        for path in sorted(folder.glob(f"{stem}-*.parquet")):
            if file_sha256(path)[:16] == path.stem.removeprefix(f"{stem}-"):
                self.memos.append(path.name)
                return pq.read_table(path)
            self.log_with_shard(f"{path} has changed since it was written and is made again")
            path.unlink()
        written = folder / f".{stem}.partial"
        write_table(written, make())
        path = folder / f"{stem}-{file_sha256(written)[:16]}.parquet"
        written.replace(path)
        self.memos.append(path.name)
        return pq.read_table(path)

    def forget(self, name: str, key: str) -> None:
        """Remove a table that ``memo`` keeps, so that the next call makes it."""
        for path in self.folder.parent.glob(f"{name}-{key[:12]}*.parquet"):
            path.unlink()
            self.memos[:] = [memo for memo in self.memos if memo != path.name]

    def stats(self, stage: str) -> dict[str, Any]:
        """Stats of an input that is not sharded."""
        (manifest,) = self.inputs[stage]
        return manifest.stats


def no_log(line: str) -> None:
    """Log nothing."""


def nothing_to_check(settings: Settings) -> None:
    """Check nothing."""


def nothing_to_prepare(settings: Settings) -> None:
    """Prepare nothing."""


def nothing_more(settings: Settings) -> tuple[str, ...]:
    return ()


def no_files(settings: Settings) -> Versions:
    return {}


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
    prepare: Callable[[Settings], None] = nothing_to_prepare
    """Generates files outside the graph that the stage reads and the profile does not name. Called at the start of a
    run that reads the stage's set."""
    preflight: Callable[[Settings], None] = nothing_to_check
    """Checks files of the user's that only this stage reads. Called when a run begins that will come to this stage, so
    that a broken file is found before the stages in front of it are paid for. Raises ``UserError``."""
    files: Callable[[Settings], Versions] = no_files
    """Versions of the user's files that this stage reads; a run in which one of them changes fails."""
    columns: pa.Schema | None = None
    """Schema of the kept rows of a set of image-text pairs; None for other sets."""
    rules: tuple[Rule, ...] = ()
    """Checks of the set. No stage reads a set that fails one of its blocking rules."""
