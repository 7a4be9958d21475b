"""Definition of a stage. In: a function on tables. Out: a ``Stage``: the function and what its output depends on.

A stage's function receives a ``Work`` and returns a ``Result``; the engine writes tables and computes keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.config.settings import Scope, Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Rule
from bettersynth_assets.engine.store import Manifest, write_table
from bettersynth_assets.records.input_files import Versions
from bettersynth_assets.records.schema import QUARANTINE, REJECTS
from toolkit.files import file_sha256

Log = Callable[[str], None]
Inputs = Mapping[str, list[Manifest]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Return value of a stage's function; the engine writes the tables."""

    rows_in: int
    kept: pa.Table
    rejects: pa.Table = field(default_factory=REJECTS.empty_table)
    quarantine: pa.Table = field(default_factory=QUARANTINE.empty_table)
    stats: dict[str, Any] = field(default_factory=dict)
    """Small JSON values for metadata and later stages, e.g. thresholds and histograms."""
    tables: dict[str, pa.Table] = field(default_factory=dict)
    """Additional tables by the name of their file, which the engine writes first among ``files``."""
    files: tuple[str, ...] = ()
    """Additional files that the function wrote; paths relative to ``Work.folder``."""
    other_files: tuple[str, ...] = ()
    """Files that are verified like ``files`` but not part of the digest, because they contain timings or paths."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Argument of a stage's function."""

    run: ResolvedRun
    shard: str
    folder: Path
    inputs: Inputs
    log: Log
    memos: list[str] = field(default_factory=list)
    """Names of the memos that the function has used."""

    @property
    def settings(self) -> Settings:
        return self.run.settings

    def log_with_shard(self, line: str) -> None:
        """Log a line with the shard's name appended, because log lines of workers are interleaved."""
        self.log(f"{line} ({self.shard})")

    def rows(self, stage: str, table: str = "kept") -> pa.Table:
        """Return all rows of an input in shard order."""
        return pa.concat_tables([manifest.table(table) for manifest in self.inputs[stage]])

    def memo(self, name: str, key: str, update: Callable[[pa.Table | None], pa.Table]) -> pa.Table:
        """Return an expensive intermediate table, stored next to the shard's versions in the place of its predecessor.

        Args:
            name: name of the table, e.g. ``captions``.
            key: hash of everything that the table depends on; fewer values than the result depends on.
            update: receives the table that an earlier version, or a killed run, has stored under this key, or None if
                no intact one exists; returns it if it is complete, else the table to store.
        """
        stored = self._read_memo(name, key)
        table = update(stored)
        if table is not stored:
            self._write_memo(name, key, table)
        return table

    def _read_memo(self, name: str, key: str) -> pa.Table | None:
        for path in self._memo_paths(name, key):
            if file_sha256(path)[:16] == path.stem.rpartition("-")[2]:
                self.memos.append(path.name)
                return pq.read_table(path)
            self.log_with_shard(f"{path} has changed since it was written and is rebuilt")
            path.unlink()
        return None

    def _write_memo(self, name: str, key: str, table: pa.Table) -> None:
        """Its name holds the hash of its bytes. The version that uses it removes older memos when it is committed."""
        stem = _memo_stem(name, key)
        partial = self.folder.parent / f".{stem}.partial"  # the hash is known once the file is written
        write_table(partial, table)
        memo = partial.replace(partial.with_name(f"{stem}-{file_sha256(partial)[:16]}.parquet"))
        replaced = {path.name for path in self._memo_paths(name, key)} - {memo.name}
        for file_name in replaced:
            memo.with_name(file_name).unlink()
        self.memos[:] = [*(used for used in self.memos if used not in replaced), memo.name]

    def _memo_paths(self, name: str, key: str) -> list[Path]:
        return sorted(self.folder.parent.glob(f"{_memo_stem(name, key)}-*.parquet"))

    def stats(self, stage: str) -> dict[str, Any]:
        """Return the stats of an unsharded input."""
        (manifest,) = self.inputs[stage]
        return manifest.stats


def _memo_stem(name: str, key: str) -> str:
    return f"{name}-{key[:12]}"


def no_log(line: str) -> None:
    """No-op log."""


def no_checks(run: ResolvedRun) -> tuple[str, ...]:
    """Preflight check that always passes."""
    return ()


def no_preparation(run: ResolvedRun) -> None:
    """No-op preparation."""


def no_additional_inputs(run: ResolvedRun) -> tuple[str, ...]:
    return ()


def no_files(run: ResolvedRun) -> Versions:
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the graph. Its functions are defined at module level, so that it can be pickled for workers."""

    name: str
    version: int
    """Increment when the same input produces a different output."""
    run: Callable[[Work], Result]
    depends: Callable[[ResolvedRun, str, Inputs], object]
    """Returns a JSON value of everything else that the output depends on: recipe sections, model or file hashes."""
    sharded: bool
    inputs: tuple[str, ...] = ()
    by_value: tuple[str, ...] = ()
    """Inputs whose digests are not part of the key; ``depends`` returns the values that count, e.g. one threshold."""
    additional_inputs: Callable[[ResolvedRun], tuple[str, ...]] = no_additional_inputs
    """Returns additional inputs that only some recipes require; other recipes neither build nor read them."""
    scope: Scope = "recipe"
    """What the output depends on, besides the profile. It is stored once for all recipes of the same scope."""
    libraries: tuple[str, ...] = ()
    resume: bool = False
    """True if the function can resume from the files that a killed run left in its folder."""
    prepare: Callable[[ResolvedRun], None] = no_preparation
    """Generates files outside the graph that the stage reads and the profile does not name. Called at the start of each
    run that reads the stage's set."""
    preflight: Callable[[ResolvedRun], Sequence[str]] = no_checks
    """Checks the recipe or the user's files for this stage; returns warnings. Called at the start of each run that
    includes this stage, so that a fault is reported before earlier stages run, and at the latest before this stage
    builds its first shard. Raises ``UserError``."""
    files: Callable[[ResolvedRun], Versions] = no_files
    """Returns the versions of the user's files that this stage reads; a run fails if one of them changes."""
    columns: pa.Schema | None = None
    """Schema of the kept rows of a set of image-text pairs; None for other sets."""
    rules: tuple[Rule, ...] = ()
    """Checks of the set. No stage reads a set that fails a blocking rule."""
