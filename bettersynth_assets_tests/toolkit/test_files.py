"""The atomic writer: a complete file or none, permissions by the umask, and errors that name the file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from bettersynth_assets.engine.store import write_table
from bettersynth_assets.models.diffusion import save_image
from bettersynth_assets_tests.helpers.seeds import picture
from toolkit import tensor_files
from toolkit.file_errors import EnvironmentFault
from toolkit.files import replacing, write_atomically, write_json
from toolkit.models.mgm.tiny import save_tiny
from toolkit.tensor_files import save_tensors, writing

WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: write_atomically(path, b"x"),
    "not flushed": lambda path: write_atomically(path, "x", durable=False),
    "json": lambda path: write_json(path, {"a": 1}),
    "text": lambda path: write_atomically(path, "x"),
    "table": lambda path: write_table(path, pa.table({"a": [1]})),
    "image": lambda path: save_image(picture(), path),
    "weights": lambda path: save_tensors({"a": torch.zeros(1)}, path),
    "optimizer": lambda path: torch.save({"a": torch.zeros(1)}, path),
}


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_file_has_the_permissions_of_the_umask(writer: str, umask: int, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    if writer == "optimizer":
        path.parent.mkdir()
    WRITERS[writer](path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o777 & ~umask
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_every_file_of_a_checkpoint_has_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~umask}


def test_an_error_leaves_the_old_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(ValueError, match="on purpose"), replacing(path) as partial:
        partial.write_text("half")
        raise ValueError("on purpose")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_reported_with_the_file(code: int, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=rf"{tmp_path}/a\.txt: ") as error, replacing(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    assert error.value.code == code


@pytest.mark.parametrize("error", [RuntimeError("unexpected pos 64 vs 0"), OSError(errno.ENOSPC, "full")])
def test_a_full_disk_is_recognised_behind_a_librarys_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "_is_full", lambda path: True)
    with pytest.raises(EnvironmentFault, match=r"step-1: .*\(ENOSPC\): free space"), writing(tmp_path / "step-1"):
        raise error


def test_a_librarys_error_on_a_disk_with_free_space_is_unchanged(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "step-1"):
        raise RuntimeError("shapes do not fit")


def test_two_writers_of_one_file_use_different_partial_files(tmp_path: Path) -> None:
    path, values = tmp_path / "a", [np.full(50_000, digit, np.uint8).tobytes() for digit in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, value)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in values
    assert list(tmp_path.iterdir()) == [path]
