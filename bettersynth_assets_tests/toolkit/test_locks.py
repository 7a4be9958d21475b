from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from toolkit.locks import locked_file, locked_folder


class BusyError(Exception):
    """Raised instead of waiting."""


def refuse() -> None:
    raise BusyError


def test_a_held_folder_is_refused_and_then_free(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with locked_folder(folder), pytest.raises(BusyError), locked_folder(folder, refuse):
        pass
    with locked_folder(folder, refuse):
        assert folder.is_dir()


def test_a_process_that_waits_for_a_removed_folder_holds_the_one_in_its_place(tmp_path: Path) -> None:
    folder, waits = tmp_path / "folder", Event()
    is_held = []

    def wait() -> None:
        with locked_folder(folder, waits.set):
            try:
                with locked_folder(folder, refuse):
                    is_held.append(False)
            except BusyError:
                is_held.append(True)

    with locked_folder(folder):
        thread = Thread(target=wait)
        thread.start()
        waits.wait()
        folder.rmdir()
    thread.join()
    assert is_held == [True]


def test_a_file_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    link = tmp_path / "lock"
    link.symlink_to(tmp_path / "gone" / "lock")
    with pytest.raises(FileNotFoundError), locked_file(link):
        pass
