"""How `make` finds a Python, and its output during installation."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from bettersynth_assets.config.model import PROJECT_ROOT

REQUIRES = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]


def find(folder: Path, *candidates: str) -> subprocess.CompletedProcess[str]:
    """Run the script with only the folder's programs and the system's tools on PATH."""
    env = {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    script = str(PROJECT_ROOT / "tools" / "find_python.sh")
    return subprocess.run(["sh", script, *candidates], env=env, capture_output=True, text=True)


def program(file: Path, text: str) -> None:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def python(file: Path, version: str) -> None:
    """Write a Python that reports another version."""
    numbers = ", ".join(version.split("."))
    code = f"import sys; sys.version_info = ({numbers}); exec(sys.argv[2])"
    program(file, f"exec '{sys.executable}' -c '{code}' \"$@\"")


@pytest.mark.parametrize("version", ["3.10.14", "3.11.4", "3.11.5", "3.12.0", "3.13.11", "3.14.0"])
def test_the_accepted_python_versions_are_those_of_pyproject(version: str, tmp_path: Path) -> None:
    python(tmp_path / "candidate", version)
    done = find(tmp_path, "candidate")
    if SpecifierSet(REQUIRES).contains(version):
        assert done.returncode == 0 and Path(done.stdout.strip()).samefile(sys.executable), done.stderr
    else:
        assert done.returncode == 1 and done.stdout == "" and f"candidate: is Python {version}\n" in done.stderr


def test_the_first_working_candidate_is_used_without_output_about_the_others(tmp_path: Path) -> None:
    program(tmp_path / "placeholder", "echo 'placeholder: version not active' >&2; exit 127")
    python(tmp_path / "old", "3.9.1")
    python(tmp_path / "new", "3.13.0")
    done = find(tmp_path, "missing", "placeholder", "old", "new")
    assert done.returncode == 0 and done.stderr == "" and Path(done.stdout.strip()).samefile(sys.executable)


def test_without_a_suitable_python_each_candidate_is_listed_with_its_fault(tmp_path: Path) -> None:
    program(tmp_path / "placeholder", "printf 'placeholder: version not active\\n\\nlong advice\\n' >&2; exit 127")
    python(tmp_path / "old", "3.9.1")
    done = find(tmp_path, "missing", "placeholder", "old")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: Python 3.11.5 or newer, but older than 3.14, is needed; tried:",
        "  missing: not found",
        "  placeholder: placeholder: version not active",
        "  old: is Python 3.9.1",
        "Set its path, e.g. make PYTHON=/path/to/python3.12",
    ]


@pytest.mark.slow
def test_a_failed_step_shows_its_output_and_names_the_complete_log(tmp_path: Path) -> None:
    venv = tmp_path / "an environment"
    env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    command = ["sh", "tools/install.sh", str(venv), sys.executable]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Creating", "Installing"]
    assert "No matching distribution found for uv==" in done.stderr
    log = venv / "install.log"
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: could not install uv==") and error.endswith(f"; the full output is in {log}")
    assert "No matching distribution found for uv==" in log.read_text("utf-8")
