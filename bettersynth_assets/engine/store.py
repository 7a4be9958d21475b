"""Durable storage of shards. In: tables and a manifest. Out: a folder that is either complete or not committed.

<stage root>/shard-00003/         (unsharded stages: ``all``)
    manifest.json                 the commit point: names the version, with sizes and hashes of its files
    v-3fa9c1d20b7e/               files of one version, named by its key
        kept.parquet ...
    current -> v-3fa9c1d20b7e     a stable path for people and scripts
    captions-<key>-<sha256>.parquet     memos: expensive intermediate tables (``Work.memo``)
    .lock                         held by the process that writes here

Renaming ``manifest.json`` into place commits a version. The link ``current`` is derived from the manifest:
``Slot.tidy`` compares both whenever a shard is found up to date, and repairs the link, so a process that was killed
between manifest and link, or a copy of the data root without links, does no harm. The link is not the commit point,
because copies and object stores may drop links.

Only the holder of the lock writes, so all other files here are leftovers of killed processes: partial files, other
versions, memos that the current version does not name. The next run of the shard removes them. It never deletes user
files: a folder or file in the place of ``current`` or ``manifest.json`` is renamed to ``<name>.aside-<n>``.

A read-only data root can be used if everything is up to date, because reading does not lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bettersynth_assets.engine.integrity import DamagedFileError, fault_of
from bettersynth_assets.engine.manifest import FILE, Manifest, read_manifest
from bettersynth_assets.errors.storage import CANNOT_WRITE, naming_the_path
from toolkit.files import flush, replacing, write_atomically
from toolkit.locks import locked_file

__all__ = ["WHOLE", "Manifest", "Slot", "write_table"]

WHOLE = "all"
LINK, LOCK = "current", ".lock"
_PARTIAL = re.compile(r"\..+\.partial|\..+\.[a-z0-9_]{8}")
"""Names of unfinished files, links and folders; the second form is that of ``tempfile.mkstemp``."""
_MEMO = re.compile(r".+-[0-9a-f]{12}(-[0-9a-f]{16})?\.parquet")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically; equal tables produce equal bytes."""
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Storage of one shard of one stage."""

    root: Path
    stage: str
    shard: str

    @property
    def folder(self) -> Path:
        return self.root / self.stage / self.shard

    def read(self) -> Manifest | None:
        """Return the committed manifest, for reports; None if it or a file is missing or has the wrong size."""
        manifest = self._committed_or_none()
        return None if manifest is None or manifest.faults(sizes_only=True) else manifest

    def committed(self) -> Manifest | None:
        """Return the committed manifest, or None if nothing is committed.

        Raises:
            DamagedFileError: the manifest exists but is not valid.
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
        """Lock this shard; a second run waits.

        Raises:
            StorageError: the folder or the lock file cannot be created.
        """
        with ExitStack() as stack:
            with naming_the_path(self.folder):
                stack.enter_context(locked_file(self.folder / LOCK))
            yield

    def abandon(self, key: str) -> None:
        """Remove the empty folders that a stage leaves when it refuses its settings; the lock must be held."""
        with suppress(OSError):  # keeps folders that are not empty
            (self.folder / version_name(key)).rmdir()
        if self.folder.is_dir() and [path.name for path in self.folder.iterdir()] == [LOCK]:
            (self.folder / LOCK).unlink()
            with suppress(OSError):
                for folder in (self.folder, self.folder.parent, self.root, self.root.parent):
                    folder.rmdir()

    def tidy(self, manifest: Manifest) -> list[str]:
        """Repair the link and remove leftovers of killed runs next to the committed version.

        Does nothing if there is nothing to do, if another process holds the lock, or if the folder is read-only.

        Returns:
            Log lines about what was done.
        """
        if not self._leftovers(manifest) and self._link_is_right(manifest):
            return []
        try:
            with (self.folder / LOCK).open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._committed_or_none() != manifest:  # another run has committed meanwhile
                    return []
                actions = self._set_link(manifest)  # first: it may point to an old version that is removed next
                return actions + self._remove(self._leftovers(manifest))
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno in CANNOT_WRITE:
                return []
            raise

    def begin(self, key: str, *, resume: bool) -> Path:
        """Create the folder of a new version; the lock must be held.

        Removes leftovers of killed runs, except memos and, with ``resume``, the folder of ``key`` itself. Also removes
        damaged files of the committed version, so that a stage does not resume from them: in its folder, the whole
        top-level entry that contains a damaged file, e.g. ``seed-1``.
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
        """Commit a finished version, then remove older versions; the lock must be held."""
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
        """Return leftovers of killed runs: other versions, partial files at any depth, memos not in ``manifest``."""
        version = version_name(manifest.key) if manifest else ""
        top, leftovers = str(self.folder), []
        folders = [top]
        while folders:
            folder = folders.pop()
            with suppress(FileNotFoundError), os.scandir(folder) as entries:  # another process may write here
                for entry in entries:
                    name = entry.name
                    is_old = folder == top and (
                        (name.startswith("v-") and name != version)
                        or (manifest is not None and name not in manifest.memos and _MEMO.fullmatch(name))
                    )
                    if is_old or (name.startswith(".") and _PARTIAL.fullmatch(name)):
                        leftovers.append(Path(entry.path))
                    elif entry.is_dir(follow_symlinks=False) and ".aside-" not in name:
                        folders.append(entry.path)
        return leftovers

    def _remove(self, paths: list[Path]) -> list[str]:
        for path in paths:
            _remove(path)
        names = ", ".join(sorted(str(path.relative_to(self.folder)) for path in paths))
        return [f"{self.stage} {self.shard}: removed leftovers of a killed run: {names}"] if paths else []

    def _remove_damaged(self, manifest: Manifest, *, all_files: bool) -> None:
        """Remove damaged files next to the version's folder, which later versions reuse, or all damaged files."""
        for name, entry in manifest.files.items():
            is_next_to_it = name.startswith("../")
            if (all_files or is_next_to_it) and fault_of(manifest.path / name, entry):
                _remove(manifest.path / (name if is_next_to_it else Path(name).parts[0]))

    def _link_is_right(self, manifest: Manifest) -> bool:
        link = self.folder / LINK
        return link.is_symlink() and str(link.readlink()) == manifest.path.name

    def _set_link(self, manifest: Manifest) -> list[str]:
        """Point ``current`` to the version, atomically."""
        if self._link_is_right(manifest):
            return []
        link = self.folder / LINK
        aside = _set_aside(link, unless=Path.is_symlink)
        with replacing(link, durable=False) as partial:
            partial.symlink_to(manifest.path.name)
        moved = f"; the file or folder in its place was renamed to {aside}" if aside else ""
        return [f"{self.stage} {self.shard}: repaired the link {link}{moved}"]


def version_name(key: str) -> str:
    """Return the name of a version's folder."""
    return f"v-{key[:12]}"


def _is_memo(path: Path) -> bool:
    return _MEMO.fullmatch(path.name) is not None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _set_aside(path: Path, *, unless: Callable[[Path], bool]) -> Path | None:
    """Rename a user's file or folder that blocks one of this module's paths; remove it if it is an empty folder."""
    if unless(path) or not (path.exists() or path.is_symlink()):
        return None
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    return path.rename(aside)
