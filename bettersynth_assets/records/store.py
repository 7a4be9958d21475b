"""Durable files of the stages. In: tables and a manifest. Out: a folder that is either whole or not there.

<stage root>/shard-00003/         (unsharded stages: ``all``)
    manifest.json                 written last: its existence means that the files it names are whole
    current -> v-3fa9c1d20b7e     for people and scripts that want a steady path
    v-3fa9c1d20b7e/               files of one version, named by its key; an old version is removed only
        kept.parquet ...          after the manifest names the new one
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WHOLE = "all"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What one shard of one stage holds and what it was made from."""

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
    """sha256 of the kept rows (or of the named files of a stage without rows): what downstream keys are made of."""
    files: dict[str, dict[str, Any]]
    stats: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    inputs: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    """Peak memory and GPU of the process that made it; like the seconds, in no key and no digest."""
    created: str = ""
    folder: str = ""

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def lost(self) -> int:
        """Rows that no table accounts for; anything but 0 is a bug."""
        return self.rows_in - self.kept - sum(self.rejected.values()) - sum(self.quarantined.values())

    @property
    def rows_per_second(self) -> float:
        return self.rows_in / self.seconds if self.seconds > 0 else 0.0

    def table(self, name: str = "kept") -> pa.Table:
        """Read one of the shard's tables: ``kept``, ``rejects`` or ``quarantine``."""
        return pq.read_table(self.path / f"{name}.parquet")


def digest_of(*parts: object) -> str:
    """sha256 over the canonical JSON of ``parts``; the same values give the same hash in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that readers see the old one or the new one whole, never a part.

    Yields:
        A path in the same folder to write to; it is flushed to disk and takes ``path``'s place when the block ends
        without an error, and is removed when it does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8, ``\\n`` line ends."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically; the same table gives the same bytes."""
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """The place of one shard of one stage."""

    root: Path
    stage: str
    shard: str

    @property
    def folder(self) -> Path:
        return self.root / self.stage / self.shard

    def read(self) -> Manifest | None:
        """The current manifest, or None where nothing whole is there."""
        path = self.folder / "manifest.json"
        if not path.is_file():
            return None
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        folder = self.folder / version_name(manifest.key)
        whole = all((folder / name).exists() for name in manifest.files)
        # The folder is filled in on reading, so that a data root can be moved.
        return Manifest(**{**asdict(manifest), "folder": str(folder)}) if whole else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this shard; a second run on it waits here. The lock ends with the process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def begin(self, key: str, *, resume: bool) -> Path:
        """A folder for a new version; what a killed run left there is wiped unless ``resume``."""
        folder = self.folder / version_name(key)
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def commit(self, manifest: Manifest) -> Manifest:
        """Make a finished version the current one, then remove the older ones."""
        name = version_name(manifest.key)
        values = {**asdict(manifest), "folder": ""}
        write_text(self.folder / "manifest.json", json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False))
        link = self.folder / ".current.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        link.replace(self.folder / "current")
        for old in self.folder.glob("v-*"):
            if old.name != name:
                shutil.rmtree(old)
        return Manifest(**{**values, "folder": str(self.folder / name)})


def version_name(key: str) -> str:
    return f"v-{key[:12]}"
