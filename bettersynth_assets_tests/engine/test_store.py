"""Atomic files, and versions that replace each other."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.store import Manifest, Slot, replacing, write_table
from toolkit.files import digest_of


def manifest(key: str, **changes: object) -> Manifest:
    values = {
        "stage": "demo", "shard": "all", "key": key, "rows_in": 3, "kept": 1, "rejected": {"a": 1},
        "quarantined": {"b": 1}, "digest": "d", "files": {"kept.parquet": {}},
    }  # fmt: skip
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def commit(slot: Slot, key: str, values: list[int]) -> Manifest:
    folder = slot.begin(key, resume=False)
    write_table(folder / "kept.parquet", pa.table({"value": values}))
    return slot.commit(manifest(key, files={"kept.parquet": seal(folder / "kept.parquet")}))


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot(root=tmp_path, stage="demo", shard="all")


def test_a_write_error_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_process_killed_during_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from bettersynth_assets.engine.store import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, pa.table({"id": ["x", "y"], "score": pa.array([0.5, None], pa.float32())}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_folder_without_a_manifest_counts_as_missing(slot: Slot) -> None:
    write_table(slot.begin("1" * 64, resume=False) / "kept.parquet", pa.table({"value": [1]}))
    assert slot.read() is None


def test_a_manifest_with_missing_files_counts_as_missing(slot: Slot) -> None:
    done = commit(slot, "1" * 64, [1])
    (done.path / "kept.parquet").unlink()
    assert slot.read() is None


def test_the_last_good_version_is_kept_until_the_next_is_complete(slot: Slot) -> None:
    commit(slot, "1" * 64, [1])
    folder = slot.begin("2" * 64, resume=False)
    (folder / "kept.parquet").write_bytes(b"half")
    current = slot.read()
    assert current is not None
    assert current.table()["value"].to_pylist() == [1]
    commit(slot, "2" * 64, [2])
    current = slot.read()
    assert current is not None
    assert current.table()["value"].to_pylist() == [2]
    assert [path.name for path in slot.folder.glob("v-*")] == ["v-" + "2" * 12]
    assert (slot.folder / "current").resolve() == current.path


def test_a_rerun_deletes_files_of_a_killed_run_unless_it_resumes(slot: Slot) -> None:
    (slot.begin("1" * 64, resume=False) / "left").write_text("x")
    assert list(slot.begin("1" * 64, resume=True).iterdir())
    assert not list(slot.begin("1" * 64, resume=False).iterdir())


def test_a_moved_data_root_can_be_read(slot: Slot, tmp_path: Path) -> None:
    commit(slot, "1" * 64, [7])
    moved = tmp_path / "elsewhere"
    (tmp_path / "demo").rename(moved)
    found = Slot(root=tmp_path, stage="elsewhere", shard="all").read()
    assert found is not None
    assert found.table()["value"].to_pylist() == [7]


def test_rows_that_no_table_accounts_for_are_counted_as_lost() -> None:
    assert manifest("1").lost == 0
    assert manifest("1", rows_in=5).lost == 2


def test_a_second_run_on_a_shard_waits_for_the_first(slot: Slot) -> None:
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with slot.locked():
            order.append("second")

    with slot.locked():
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_is_released_when_its_process_is_killed(slot: Slot) -> None:
    code = (
        "import sys; from pathlib import Path; from bettersynth_assets.engine.store import Slot\n"
        "with Slot(root=Path(sys.argv[1]), stage='demo', shard='all').locked(): print('held', flush=True); input()"
    )
    entered = threading.Event()

    def enter() -> None:
        with slot.locked():
            entered.set()

    command = [sys.executable, "-c", code, str(slot.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert not entered.wait(0.3), "two processes hold the lock"
        holder.kill()
    assert entered.wait(300), "the lock outlives its holder"
    thread.join()


def test_a_digest_depends_on_every_value_and_not_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    values = [{"a": 1}, {"a": "1"}, {"a": 1.5}, [{"a": 1}], {"a": None}, {}]
    assert len({digest_of(value) for value in values}) == len(values)
    assert len({digest_of(text) for text in ("\ud800", "\ud801", "?")}) == 3
