"""Import rules for tests: tests share only helpers; code and speed measurements import no tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bettersynth_assets_tests.helpers.paths import ROOT

TESTS = "bettersynth_assets_tests"


def imported(path: Path) -> Iterator[str]:
    """Return the names of all modules that a file imports, and of the objects imported from them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test(module: str) -> bool:
    return module.startswith("test_") or module == "conftest"


@pytest.mark.slow
def test_no_test_imports_another_test_module() -> None:
    files = [*(ROOT / TESTS).rglob("*.py")]
    assert len(files) > 100
    found = [
        (path.relative_to(ROOT).as_posix(), name)
        for path in files
        for name in imported(path)
        if name.startswith(f"{TESTS}.") and any(is_test(part) for part in name.split("."))
    ]
    assert not found, "move shared code to helpers/"


def test_code_and_speed_measurements_import_no_tests() -> None:
    files = [path for folder in ("bettersynth_assets", "toolkit", "speed", "tiny_models")
             for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    assert len(files) > 100
    naming = [path for path in files if TESTS in path.read_text("utf-8")]  # the others need not be parsed
    assert not [(path.name, name) for path in naming for name in imported(path) if name.startswith(TESTS)]
