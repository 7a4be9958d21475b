"""Store of training runs, append-only and shared by all recipes, budgets and baselines.

::

    <root>/<first 16 digits of the key>/
        run.json        of the trainer: its plan, and what it identifies a training by
        pretrain/       projector, samples of every step, manifest with losses and cost
        finetune/       the trained checkpoint, and the same
        cost.json       cost of both phases, and the commit of the code that trained
        manifest.json   key, the identity that it is the hash of, sha256 of every file; written last

A run is one training: of one training file and its images, with one training seed, and with one value of everything
else that determines the weights. All of this is its *identity*. Equal identities are one run, whichever recipe asks for
it. A killed run keeps its phases and checkpoints and is resumed; it is finished once ``manifest.json`` exists and all
hashes match. If two processes want the same run, one trains it and the other waits. Nothing here removes a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bettersynth_assets.engine.code_version import code_version
from bettersynth_assets.scheduler.child_process import ChildError
from toolkit.committed_folder import damaged_files, locked, read_record, write_record
from toolkit.files import digest_of, sha256_once, write_json
from toolkit.training.file_record import MarkerError, read_marker

TRAINER = "toolkit.training.run"
PHASES = ("pretrain", "finetune")
VERSION = 1
"""Increment when the same identity would train other weights."""
RECORD, COST, TRAINERS_RECORD = "manifest.json", "cost.json", "run.json"
NAME_DIGITS = 16
Identity = Mapping[str, Any]
"""JSON values that determine a training; with ``arm`` (digest of the training file and its images) and
``training_seed``."""
Commit = Callable[[Path], object]
Train = Callable[[Mapping[Path, Identity], Commit], None]
"""Trains the runs of these folders; may commit each of them as soon as it is finished."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run.

    Args:
        folder: its folder in the store.
        key: hash of its identity.
        identity: what determined its weights.
        files: sha256 by path relative to the folder.
        cost: by phase; see ``toolkit.training.cost``, and ``steps``, ``final_loss``, ``device``, ``processes``.
        commit: of the code that finished the run, or the version of an installed package; "" in older runs.
    """

    folder: Path
    key: str
    identity: Identity
    files: Mapping[str, str]
    cost: Mapping[str, Mapping[str, Any]]
    commit: str = ""

    @property
    def name(self) -> str:
        """Name of the run in tables: the first digits of its key."""
        return self.key[:NAME_DIGITS]

    @property
    def training_seed(self) -> int:
        return int(self.identity["training_seed"])

    def phase(self, name: str) -> dict[str, Any]:
        """Return the manifest of a phase."""
        return finished_phase(self.folder / name)

    def link_into(self, folder: Path) -> list[str]:
        """Link the run's files into a folder, or copy them where links are not possible; return their names."""
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(self.folder / name, target)
            except OSError:  # another file system, or one without links
                shutil.copyfile(self.folder / name, target)
        return list(self.files)


class RunStore:
    """Runs by identity.

    Args:
        root: folder of the store.
        log: called with lines about damage and about runs of other processes.
    """

    def __init__(self, root: Path, log: Callable[[str], None] = print) -> None:
        self.root, self.log = root, log

    def folder(self, key: str) -> Path:
        return self.root / key[:NAME_DIGITS]

    def find(self, identity: Identity) -> Run | None:
        """Return the run with this identity if it is stored and all its files are whole; takes no lock."""
        run = self._read(self.folder(key := run_key(identity)))
        return None if run is None or run.key != key or damaged_files(run.folder, run.files) else run

    def all(self) -> list[Run]:
        """Return all stored runs, without verifying their files."""
        found = (self._read(folder) for folder in sorted(self.root.glob("*/")))
        return [run for run in found if run is not None]

    def ensure(self, identities: Sequence[Identity], train: Train) -> list[Run]:
        """Return the runs with these identities; train the missing and the damaged ones.

        Args:
            identities: one per run.
            train: called with the folders of the runs to train, if any.

        Raises:
            ChildError: ``train`` returned without finishing a run; other runs are kept.
        """
        missing = {run_key(one): one for one in identities if self.find(one) is None}
        with ExitStack() as locks:
            for key in sorted(missing):  # one order for all processes, so that none waits for another in a circle
                name = key[:NAME_DIGITS]
                wait = partial(self.log, f"run {name} is being trained by another process: waiting for it")
                locks.enter_context(locked(self.folder(key), wait))
            todo = {self.folder(key): one for key, one in missing.items() if self.find(one) is None}
            for folder in todo:
                self._remove_damaged(folder)
            if todo:
                code = code_version()  # before the training: the checkout may change meanwhile
                train(todo, lambda folder: _commit(folder, todo[folder], code))
                for folder, one in todo.items():
                    if not (folder / RECORD).exists():
                        _commit(folder, one, code)
            return [self._stored(one) for one in identities]

    def _stored(self, identity: Identity) -> Run:
        run = self._read(self.folder(run_key(identity)))
        assert run is not None
        return run

    def _read(self, folder: Path) -> Run | None:
        record, cost = read_record(folder / RECORD), read_record(folder / COST)
        if record is None or cost is None:
            return None
        try:
            return Run(folder=folder, commit=cost.pop("commit", ""), cost=cost, **record)
        except TypeError:
            return None

    def _remove_damaged(self, folder: Path) -> None:
        """Remove what a damaged run cannot be resumed from: a phase with a damaged file, or everything.

        Files are removed, not overwritten: sets of older versions may hold links to them.
        """
        record = read_record(folder / RECORD) or {}
        (folder / RECORD).unlink(missing_ok=True)
        damaged = damaged_files(folder, record.get("files", {}))
        if damaged:
            self.log(f"run {folder.name} is trained again: {', '.join(damaged)} damaged or missing")
        tops = {Path(name).parts[0] for name in damaged}
        for path in folder.iterdir():
            if path.name in tops or TRAINERS_RECORD in tops:
                (shutil.rmtree if path.is_dir() else os.remove)(path)


def run_key(identity: Identity) -> str:
    """Return the key of a run."""
    return digest_of("run", VERSION, identity)


def finished_phase(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished phase; the trainer writes it last.

    Raises:
        ChildError: there is none, or it does not confirm the last step. A launcher may return 0 although its trainer
            died, so the exit code alone is not sufficient.
    """
    marker = folder / "manifest.json"
    try:
        found = read_marker(marker, ("final_step", "planned_steps", "loss_curve", "cost", "samples_per_s"))
    except MarkerError as error:
        raise ChildError(f"{TRAINER} ended with exit code 0 before its last step: {error}; check its output") from error
    if found["final_step"] != found["planned_steps"]:
        steps = f"step {found['final_step']} of {found['planned_steps']}"
        raise ChildError(f"{TRAINER} ended with exit code 0 but after {steps}: {marker}; check its output")
    return found


def _commit(folder: Path, identity: Identity, code: str) -> None:
    """Write the cost and, last, the manifest of a run that the trainer has finished."""
    phases = {name: finished_phase(folder / name) for name in PHASES}
    write_json(folder / COST, {**{name: _cost(found) for name, found in phases.items()}, "commit": code})
    known = {
        f"{name}/{file}": entry["sha256"]
        for name, manifest in phases.items()
        for file, entry in manifest.get("files", {}).items()
    }
    files = {name: known.get(name) or sha256_once(folder / name) for name in _results(folder)}
    write_record(folder / RECORD, {"key": run_key(identity), "identity": identity, "files": files})


def _cost(manifest: Mapping[str, Any]) -> dict[str, Any]:
    more = {"steps": manifest["final_step"], "final_loss": manifest["loss_curve"][-1]}
    return {**manifest["cost"], **more, **{name: manifest.get(name) for name in ("device", "processes")}}


def _results(folder: Path) -> list[str]:
    """Return the files of a finished run, without those needed only for resuming."""
    found = [path.relative_to(folder) for path in sorted(folder.rglob("[!.]*")) if path.is_file()]
    return [path.as_posix() for path in found if "checkpoints" not in path.parts and path.as_posix() != RECORD]
