"""All calls in the project's source, for tests that forbid some. Parsed once per process."""

from __future__ import annotations

import ast
from functools import cache

from bettersynth_assets_tests.helpers.paths import ROOT


@cache
def calls_of(package: str) -> list[tuple[str, str, ast.Call]]:
    """Return (file, name of the called function, call) of all calls in a package; the name is empty if it has none."""
    return [
        (path.relative_to(ROOT).as_posix(), _name(node.func), node)
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    ]


def _name(function: ast.expr) -> str:
    """Return a dotted name, e.g. ``os.system``. Much faster than ``ast.unparse``."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else ""
