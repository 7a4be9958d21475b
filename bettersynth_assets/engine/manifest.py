"""The record of one finished shard. In: ``manifest.json``. Out: a ``Manifest``, whose files are verified before use.

``manifest.json`` contains a sha256 over its other values, so an edited or damaged manifest is detected. It also
contains the size and sha256 of every file of the version. ``Manifest.file`` and ``Manifest.table`` verify both before
they return a file; a file is hashed once per process (see ``integrity``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.engine.integrity import DamagedFileError, fault_of
from toolkit.file_errors import patiently
from toolkit.files import digest_of

FILE = "manifest.json"
FORMAT = 2
"""Increment when older manifests cannot be read any more; their shards are then rebuilt."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents and provenance of one shard of one stage."""

    stage: str
    shard: str
    key: str
    """Hash of everything that the output depends on: version, settings, libraries, digests of the inputs."""
    rows_in: int
    kept: int
    rejected: dict[str, int]
    """Rows by operator."""
    quarantined: dict[str, int]
    """Rows by reason."""
    digest: str
    """sha256 of the kept rows (or of the named files of a stage without rows); downstream keys contain it."""
    files: dict[str, dict[str, Any]]
    """``{"bytes": …, "sha256": …}`` of each file, by its path relative to the version's folder."""
    memos: list[str] = field(default_factory=list)
    """Names of the memos that the version was built from, next to its folder (see ``Work.memo``)."""
    stats: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    inputs: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    """Peak memory and GPU of the process that built the shard; like ``seconds``, not part of keys and digests."""
    created: str = ""
    folder: str = ""

    @property
    def path(self) -> Path:
        """The version's folder. Read its files through ``file`` or ``table``, which verify them."""
        return Path(self.folder)

    @property
    def lost(self) -> int:
        """Number of rows that are in no table; any value but 0 is a bug."""
        return self.rows_in - self.kept - sum(self.rejected.values()) - sum(self.quarantined.values())

    @property
    def rows_per_second(self) -> float:
        return self.rows_in / self.seconds if self.seconds > 0 else 0.0

    def file(self, name: str) -> Path:
        """Verify size and hash of one of the version's files; return its path.

        Raises:
            DamagedFileError: the file is missing, or has changed since the stage wrote it.
        """
        if fault := fault_of(self.path / name, self.files[name]):
            raise DamagedFileError(f"{self.stage} {self.shard}: {fault}; materialize {self.stage} again to rebuild it")
        return self.path / name

    def table(self, name: str = "kept") -> pa.Table:
        """Read one of the shard's tables: ``kept``, ``rejects`` or ``quarantine``.

        Raises:
            DamagedFileError: see ``file``.
        """
        return pq.read_table(self.file(f"{name}.parquet"))

    def verify(self) -> None:
        """Verify every file of the version, for readers of the whole folder.

        Raises:
            DamagedFileError: see ``file``.
        """
        for name in self.files:
            self.file(name)

    def faults(self, *, sizes_only: bool = False) -> dict[str, str]:
        """Return the faults of the version's files by file name; empty if all files are intact."""
        folder = self.path
        faults = {name: fault_of(folder / name, entry, sizes_only=sizes_only) for name, entry in self.files.items()}
        return {name: fault for name, fault in faults.items() if fault}

    def to_json(self) -> str:
        """Return the text of ``manifest.json``, without the folder, so that a data root can be moved."""
        values = {**asdict(self), "format": FORMAT}
        del values["folder"]
        values = json.loads(json.dumps(values))  # hash the values as they are read back, e.g. with string keys
        return json.dumps({**values, "sha256": digest_of(values)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read and verify ``manifest.json``; ``folder`` is left empty.

    Raises:
        EnvironmentFault: the file cannot be read.
        FileNotFoundError: the file does not exist.
        DamagedFileError: the file cannot be parsed, or its checksum does not match its values.
    """
    try:
        raw = patiently(path.read_bytes, path, seen=False)
    except IsADirectoryError:
        raise DamagedFileError(f"{path} is a folder") from None
    try:
        values = json.loads(raw)
    except ValueError as error:  # also raised for invalid UTF-8
        raise DamagedFileError(f"{path} is not valid JSON ({error})" if raw else f"{path} is empty") from None
    if not isinstance(values, dict) or "sha256" not in values:
        raise DamagedFileError(f"{path} has no checksum: an earlier version of this project wrote it, or it was edited")
    stated, file_format = values.pop("sha256"), values.pop("format", None)
    if stated != digest_of({**values, "format": file_format}):
        raise DamagedFileError(f"{path} does not match its checksum: it was edited or damaged")
    if file_format != FORMAT:
        raise DamagedFileError(f"{path} has format {file_format!r}, but this version of the project reads {FORMAT}")
    return Manifest(**values)
