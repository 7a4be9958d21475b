"""Durable files of the stages. In: tables and a manifest. Out: a folder that is either whole or not there.

<stage root>/shard-00003/         (unsharded stages: ``all``)
    manifest.json                 the commit point: names the version, with sizes and hashes of its files
    v-3fa9c1d20b7e/               files of one version, named by its key
        kept.parquet ...
    current -> v-3fa9c1d20b7e     for people and scripts that want a steady path
    captions-<key>-<sha256>.parquet     memos: costly tables on the way to a version (``Work.memo``)
    .lock                         held by the process that writes here

One rename commits a version: that of ``manifest.json``. Everything else follows from it. The link ``current`` is
derived: each look at a shard that is up to date (``Slot.tidy``) compares it with the manifest and repairs it, so a
process that was killed between manifest and link, or a copy of the data root without its links, does no harm. The link
is not the commit point itself because copies and object stores drop links; they keep files.

Only the holder of the lock writes, so whatever else it finds here was left by a killed process: partial files, other
versions, memos that the current version does not name. The next run of the shard removes them. It deletes nothing that
it did not write: a folder or file in the place of ``current`` or ``manifest.json`` is renamed to ``<name>.aside-<n>``.

A data root that cannot be written to is used as it is where everything is up to date: reading takes no lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.engine.integrity import DamagedFileError, fault_of
from bettersynth_assets.engine.manifest import FILE, Manifest, read_manifest
from bettersynth_assets.errors.storage import CANNOT_WRITE, naming_the_path
from toolkit.files import flush, replacing, write_atomically

__all__ = ["WHOLE", "Manifest", "Slot", "write_table"]

WHOLE = "all"
LINK, LOCK = "current", ".lock"
_PARTIAL = re.compile(r"\..+\.partial|\..+\.[a-z0-9_]{8}")
"""Names of files, links and folders that were being written; the second form is that of ``tempfile.mkstemp``."""
_MEMO = re.compile(r".+-[0-9a-f]{12}(-[0-9a-f]{16})?\.parquet")


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
        """The committed manifest, for reports; None where it or a file is missing or, by its size, damaged."""
        manifest = self._committed_or_none()
        return None if manifest is None or manifest.faults(sizes_only=True) else manifest

    def committed(self) -> Manifest | None:
        """The committed manifest, or None where nothing was committed.

        Raises:
            DamagedFileError: there is a manifest that cannot be read.
        """
        try:
            manifest = read_manifest(self.folder / FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return replace(manifest, folder=str(self.folder / version_name(manifest.key)))

    def _committed_or_none(self) -> Manifest | None:
        try:
            return self.committed()
        except DamagedFileError:
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this shard; a second run on it waits here. The lock ends with the process, however that ends.

        Raises:
            StorageError: the folder or the lock file cannot be made.
        """
        with naming_the_path(self.folder):
            file = self._lock()
        with file:
            yield

    def _lock(self) -> IO[str]:
        """The lock file, held. Again where another run has meanwhile abandoned the shard and removed the file."""
        path = self.folder / LOCK
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("w")
            except FileNotFoundError:
                if path.is_symlink():  # to a place that does not exist
                    raise
                continue
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
            file.close()

    def abandon(self, key: str) -> None:
        """Remove the empty folders that a stage leaves when it refuses its settings; the lock must be held."""
        with suppress(OSError):  # whatever is not empty stays
            (self.folder / version_name(key)).rmdir()
        if self.folder.is_dir() and [path.name for path in self.folder.iterdir()] == [LOCK]:
            (self.folder / LOCK).unlink()
            with suppress(OSError):
                for folder in (self.folder, self.folder.parent, self.root, self.root.parent):
                    folder.rmdir()

    def tidy(self, manifest: Manifest) -> list[str]:
        """Repair the link and remove what killed runs have left next to the committed version.

        Does nothing where all is in order, where another process holds the shard, or where it cannot write.

        Returns:
            What was done, as sentences.
        """
        if not self._leftovers(manifest) and self._link_is_right(manifest):
            return []
        try:
            with (self.folder / LOCK).open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._committed_or_none() != manifest:  # another run has committed meanwhile
                    return []
                done = self._set_link(manifest)  # first: until then it may point at an older version
                return done + self._remove(self._leftovers(manifest))
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno in CANNOT_WRITE:
                return []
            raise

    def begin(self, key: str, *, resume: bool) -> Path:
        """A folder for a new version; the lock must be held.

        What killed runs left is removed, except memos, and except the folder of ``key`` itself if ``resume``. Damaged
        files of the committed version are removed too, so that no stage can take them for finished work. With
        ``resume`` all goes that lies under the same first name of the version's folder, e.g. ``seed-1``.
        """
        committed, folder = self._committed_or_none(), self.folder / version_name(key)
        if committed is not None:
            self._remove_damaged(committed, all_files=committed.path == folder)
        kept = {folder.name, *([committed.path.name] if committed else [])}
        self._remove([path for path in self._leftovers(committed) if path.name not in kept and not _is_memo(path)])
        if folder.is_symlink() or (folder.exists() and not (resume and folder.is_dir())):
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def commit(self, manifest: Manifest) -> Manifest:
        """Make a finished version the current one, then remove the older ones; the lock must be held."""
        folder = self.folder / version_name(manifest.key)
        flush(folder)
        _set_aside(self.folder / FILE, unless=Path.is_file)
        write_atomically(self.folder / FILE, manifest.to_json())
        manifest = replace(read_manifest(self.folder / FILE), folder=str(folder))
        flush(self.folder)
        self._set_link(manifest)
        self._remove(self._leftovers(manifest))
        return manifest

    def _leftovers(self, manifest: Manifest | None) -> list[Path]:
        """What a killed process left: other versions, partial files at any depth, memos that ``manifest`` lacks."""
        version = version_name(manifest.key) if manifest else ""
        top, found = str(self.folder), []
        folders = [top]
        while folders:
            here = folders.pop()
            with suppress(FileNotFoundError), os.scandir(here) as entries:  # another process may write here
                for entry in entries:
                    name = entry.name
                    is_old = here == top and (
                        (name.startswith("v-") and name != version)
                        or (manifest is not None and name not in manifest.memos and _MEMO.fullmatch(name))
                    )
                    if is_old or (name.startswith(".") and _PARTIAL.fullmatch(name)):
                        found.append(Path(entry.path))
                    elif entry.is_dir(follow_symlinks=False) and ".aside-" not in name:
                        folders.append(entry.path)
        return found

    def _remove(self, paths: list[Path]) -> list[str]:
        for path in paths:
            _remove(path)
        names = ", ".join(sorted(str(path.relative_to(self.folder)) for path in paths))
        return [f"{self.stage} {self.shard}: removed what a killed run had left: {names}"] if paths else []

    def _remove_damaged(self, manifest: Manifest, *, all_files: bool) -> None:
        """Remove damaged files: those next to the version's folder, which later versions take over, or all."""
        for name, entry in manifest.files.items():
            is_next_to_it = name.startswith("../")
            if (all_files or is_next_to_it) and fault_of(manifest.path / name, entry):
                _remove(manifest.path / (name if is_next_to_it else Path(name).parts[0]))

    def _link_is_right(self, manifest: Manifest) -> bool:
        link = self.folder / LINK
        return link.is_symlink() and str(link.readlink()) == manifest.path.name

    def _set_link(self, manifest: Manifest) -> list[str]:
        """Point ``current`` at the version, by a rename."""
        if self._link_is_right(manifest):
            return []
        link, partial = self.folder / LINK, self.folder / f".{LINK}.partial"
        aside = _set_aside(link, unless=Path.is_symlink)
        partial.unlink(missing_ok=True)
        partial.symlink_to(manifest.path.name)
        partial.replace(link)
        moved = f"; what stood in its place is now {aside}" if aside else ""
        return [f"{self.stage} {self.shard}: repaired the link {link}{moved}"]


def version_name(key: str) -> str:
    """Name of a version's folder."""
    return f"v-{key[:12]}"


def _is_memo(path: Path) -> bool:
    return _MEMO.fullmatch(path.name) is not None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _set_aside(path: Path, *, unless: Callable[[Path], bool]) -> Path | None:
    """Rename what a user put in the place of a file of ours; an empty folder is removed."""
    if unless(path) or not (path.exists() or path.is_symlink()):
        return None
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    return path.rename(aside)
