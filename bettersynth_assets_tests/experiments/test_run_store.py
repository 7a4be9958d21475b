"""Runs are trained once, kept, shared and verified; the trainer is simulated (test_train.py runs the real one)."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bettersynth_assets.experiments import run_store
from bettersynth_assets.experiments.run_store import RunStore, run_key
from bettersynth_assets.scheduler.child_process import ChildError
from bettersynth_assets_tests.helpers.fake_trainer import Trainer, identity, write_phase


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, lines: list[str]) -> RunStore:
    return RunStore(tmp_path / "runs", lines.append)


def ensure(store: RunStore, *seeds: int, arm: str = "a") -> list[int]:
    """Ensure runs of an arm; return the seeds that were trained for it."""
    trainer = Trainer()
    runs = store.ensure([identity(arm, seed) for seed in seeds], trainer)
    assert [run.training_seed for run in runs] == list(seeds)
    return trainer.trained


def test_adding_a_seed_trains_one_and_fewer_seeds_train_none(store: RunStore) -> None:
    assert ensure(store, 0, 1) == [0, 1]
    assert ensure(store, 0, 1, 2) == [2]
    assert ensure(store, 1) == []
    assert ensure(store, 0, 1, 2) == []


def test_equal_identities_are_one_run_and_any_other_value_is_another(store: RunStore) -> None:
    (one,) = store.ensure([identity("a", 0)], Trainer())
    assert store.find({"training_seed": 0, "base": "b", "arm": "a"}) == one
    assert store.find({**identity("a", 0), "base": "c"}) is None
    assert ensure(store, 0, arm="other") == [0] and len(store.all()) == 2


def test_the_record_says_what_determined_the_run_and_what_it_cost(store: RunStore) -> None:
    (run,) = store.ensure([identity("a", 5)], Trainer())
    assert run.folder == store.root / run.key[:16] and run.identity == identity("a", 5)
    assert {"run.json", "cost.json", "pretrain/manifest.json", "finetune/model.safetensors"} <= set(run.files)
    assert json.loads((run.folder / "cost.json").read_text()) == {**run.cost, "commit": run.commit}
    assert run.cost["finetune"]["supervised_tokens"] == 124 and run.cost["finetune"]["final_loss"] == 1.25


def test_a_run_keeps_the_commit_of_the_code_that_trained_it(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "code_version", lambda: "12ab")
    store.ensure([identity("a", 0)], Trainer())
    monkeypatch.setattr(run_store, "code_version", lambda: "34cd+")
    runs = store.ensure([identity("a", 0), identity("a", 1)], Trainer())
    assert [run.commit for run in runs] == ["12ab", "34cd+"]
    assert runs[0].key == run_key(identity("a", 0))
    cost = runs[0].folder / "cost.json"
    values = json.loads(cost.read_text())
    del values["commit"]  # as runs of older versions
    cost.write_text(json.dumps(values))
    (old,) = [run for run in store.all() if run.name == runs[0].name]
    assert (old.commit, old.cost) == ("", runs[0].cost)


@pytest.mark.parametrize("damage", [lambda path: path.write_text("x"), lambda path: path.unlink()])
def test_a_damaged_run_alone_is_trained_again_and_only_its_damaged_phase(
    store: RunStore, lines: list[str], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    run, _ = store.ensure([identity("a", 0), identity("a", 1)], Trainer())
    run.link_into(tmp_path / "view")
    whole = (run.folder / "pretrain" / "model.safetensors").stat().st_ino
    damage(run.folder / "finetune" / "model.safetensors")
    seen = tmp_path / "view" / "finetune" / "model.safetensors"
    before = seen.read_text()
    assert store.find(identity("a", 0)) is None and store.find(identity("a", 1)) is not None
    assert ensure(store, 0, 1) == [0]
    assert lines == [f"run {run.name} is trained again: finetune/model.safetensors damaged or missing"]
    assert (run.folder / "pretrain" / "model.safetensors").stat().st_ino == whole
    assert seen.read_text() == before, "a link of an older set was written through"
    assert store.find(identity("a", 0)) == run


@pytest.mark.parametrize("name", ["manifest.json", "cost.json"])
def test_a_lost_record_is_written_again_from_the_finished_phases(store: RunStore, name: str) -> None:
    (run,) = store.ensure([identity("a", 0)], Trainer())
    (run.folder / name).write_text("{")
    inode = (run.folder / "finetune" / "model.safetensors").stat().st_ino
    ensure(store, 0)
    assert store.find(identity("a", 0)) == run
    assert (run.folder / "finetune" / "model.safetensors").stat().st_ino == inode


def test_without_the_trainers_record_the_run_starts_again(store: RunStore) -> None:
    (run,) = store.ensure([identity("a", 0)], Trainer())
    (run.folder / "run.json").write_text("damaged")
    left: list[str] = []
    store.ensure([identity("a", 0)], Trainer(lambda seed: left.extend(path.name for path in run.folder.iterdir())))
    assert left == ["run.json"]  # written by the trainer


def test_a_failure_keeps_finished_runs_and_what_an_unfinished_one_can_resume_from(store: RunStore) -> None:
    def fail(seed: int) -> None:
        if seed == 1:
            raise ChildError("loss is nan")

    with pytest.raises(ChildError, match="nan"):
        store.ensure([identity("a", 0), identity("a", 1)], Trainer(fail))
    assert store.find(identity("a", 0)) is not None
    (unfinished,) = (path for path in store.root.iterdir() if not (path / "manifest.json").exists())
    assert (unfinished / "run.json").exists()
    assert ensure(store, 0, 1) == [1]


def test_a_refused_run_leaves_no_folder(store: RunStore) -> None:
    def refuse(runs: object, commit: object) -> None:
        raise ChildError("no such image")

    with pytest.raises(ChildError):
        store.ensure([identity("a", 0)], refuse)
    assert list(store.root.iterdir()) == []


def test_a_trainer_that_ends_without_its_last_step_has_failed(store: RunStore) -> None:
    def nothing(runs: object, commit: object) -> None:
        pass

    with pytest.raises(ChildError, match=r"exit code 0 before its last step: .*pretrain/manifest\.json is missing"):
        store.ensure([identity("a", 0)], nothing)

    def short(runs: Mapping[Path, object], commit: object) -> None:
        for folder in runs:
            write_phase(folder / "pretrain", "p")
            write_phase(folder / "finetune", "f", final_step=2)

    with pytest.raises(ChildError, match=r"exit code 0 but after step 2 of 3: .*finetune/manifest\.json"):
        store.ensure([identity("a", 0)], short)
    assert store.find(identity("a", 0)) is None


def test_of_two_processes_that_want_a_run_one_trains_and_the_other_waits(tmp_path: Path) -> None:
    started, waits, trained, lines = threading.Event(), threading.Event(), [], []

    def log(line: str) -> None:
        lines.append(line)
        waits.set()

    def slow(seed: int) -> None:
        started.set()
        assert waits.wait(60), "the other one did not wait"

    def first() -> None:
        trainer = Trainer(slow)
        RunStore(tmp_path, log).ensure([identity("a", 0)], trainer)
        trained.extend(trainer.trained)

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    second = Trainer()
    (run,) = RunStore(tmp_path, log).ensure([identity("a", 0)], second)
    thread.join()
    assert (trained, second.trained) == ([0], [])
    assert lines == [f"run {run.name} is being trained by another process: waiting for it"]


def test_files_are_linked_or_copied_where_links_are_not_possible(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = store.ensure([identity("a", 0)], Trainer())
    file = "finetune/model.safetensors"
    names = run.link_into(tmp_path / "linked")
    assert set(names) == set(run.files)
    assert (tmp_path / "linked" / file).stat().st_ino == (run.folder / file).stat().st_ino

    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", refuse)
    run.link_into(tmp_path / "copied")
    copied = tmp_path / "copied" / file
    assert copied.stat().st_ino != (run.folder / file).stat().st_ino
    assert copied.read_bytes() == (run.folder / file).read_bytes()
