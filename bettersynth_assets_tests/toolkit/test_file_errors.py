"""Which file errors are a row's fault and which the environment's, and how often a call is retried."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from toolkit import file_errors
from toolkit.file_errors import EnvironmentFault, environment_fault, is_environmental, patiently

ENVIRONMENTAL = [
    "EACCES",
    "EPERM",
    "EIO",
    "ESTALE",
    "ETIMEDOUT",
    "ENOTCONN",
    "EBUSY",
    "EMFILE",
    "ENFILE",
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "ENODEV",
    "ENXIO",
    "EHOSTDOWN",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(file_errors.PATIENCE_VARIABLE, "0.02")
    monkeypatch.setattr(file_errors, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(file_errors, "_gave_up", {})


@pytest.mark.parametrize("name", ENVIRONMENTAL)
def test_environmental_error_numbers(name: str) -> None:
    error = OSError(getattr(errno, name), "words")
    assert is_environmental(error, seen=False)
    fault = environment_fault(error, "/data/a.jpg", seen=False)
    assert fault is not None
    assert "/data/a.jpg" in str(fault) and f"({name})" in str(fault) and "run again" in str(fault)
    assert "\n" not in str(fault)


@pytest.mark.parametrize("name", ["ENOENT", "ENOTDIR", "EISDIR"])
def test_a_missing_file_is_the_rows_fault_only_on_first_access(name: str) -> None:
    error = OSError(getattr(errno, name), "words")
    assert not is_environmental(error, seen=False)
    assert is_environmental(error, seen=True)


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated (3 bytes not processed)"),
        UnidentifiedImageError("cannot identify image file"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        ValueError("embedded null byte"),
        SyntaxError("broken PNG file"),
    ],
)
def test_errors_about_bytes_and_names_are_the_rows(error: Exception) -> None:
    assert not is_environmental(error, seen=True)
    assert environment_fault(error, "a.jpg") is None


def test_exception_types_without_an_error_number_are_classified_too() -> None:
    assert is_environmental(PermissionError("denied"), seen=False)
    assert is_environmental(TimeoutError("timed out"), seen=False)
    assert is_environmental(FileNotFoundError("no such file"), seen=True)


def test_an_environment_fault_bypasses_row_error_handlers_and_survives_pickling() -> None:
    fault = environment_fault(OSError(errno.EIO, "Input/output error"), Path("/d/a.jpg"))
    assert not isinstance(fault, OSError | ValueError | RuntimeError)
    again = pickle.loads(pickle.dumps(fault))
    assert (str(again), again.path, again.code) == (str(fault), "/d/a.jpg", errno.EIO)


def test_a_temporary_fault_is_retried_until_it_passes(tmp_path: Path) -> None:
    path, tries = tmp_path / "a.txt", []

    def read() -> str:
        tries.append(1)
        if len(tries) == 2:
            path.write_text("there")
        return path.read_text()

    assert patiently(read, path) == "there"
    assert len(tries) == 2


def test_a_permanent_fault_is_named_after_several_attempts(tmp_path: Path) -> None:
    tries = []

    def read() -> str:
        tries.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(EnvironmentFault, match=r"a\.txt: Input/output error \(EIO\): check the disk"):
        patiently(read, tmp_path / "a.txt")
    assert len(tries) == 3
    with pytest.raises(EnvironmentFault, match="EIO"):
        patiently(read, tmp_path / "a.txt")
    assert len(tries) == 4, "a call that has just failed permanently must not be retried again"


def test_a_row_fault_is_not_retried(tmp_path: Path) -> None:
    tries = []

    def read() -> bytes:
        tries.append(1)
        return (tmp_path / "a.txt").read_bytes()

    with pytest.raises(FileNotFoundError):
        patiently(read, tmp_path / "a.txt", seen=False)
    assert len(tries) == 1


def test_the_outermost_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images" / "00" / "a.jpg"
    with pytest.raises(EnvironmentFault) as caught:
        patiently(path.read_bytes, path)
    assert str(caught.value).startswith(f"folder {tmp_path / 'images'} does not exist")
    assert caught.value.path == str(tmp_path / "images")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_not_reported_as_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0)
    with pytest.raises(EnvironmentFault, match=r"Permission denied \(EACCES\): let this user read it"):
        patiently(lambda: Image.open(path), path, seen=False)
