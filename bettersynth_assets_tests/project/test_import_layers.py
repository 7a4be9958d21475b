"""Imports: no circle of files or folders, and packages import downwards only.

Imports inside functions count; those under ``TYPE_CHECKING`` do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from bettersynth_assets.config.model import PROJECT_ROOT

LAYERS = (
    "errors",
    "config",
    "scheduler",
    "images",
    "records",
    "engine",
    "models",
    "operators",
    "miniature",
    "experiments",
    "stages",
    "experiment_runs",
    "reports",
    "defs",
)
"""Packages of ``bettersynth_assets``, lowest first; a package imports only itself and lower ones. Modules at the
package's root (``definitions`` and the commands) are above all of them."""
TOP = "(root)"
TOOLKIT_LAYERS = (
    "toolkit",
    "toolkit.preprocess",
    "toolkit.images",
    "toolkit.questions",
    "toolkit.data",
    "toolkit.models",
    "toolkit.models.kernels",
    "toolkit.models.answering",
    "toolkit.models.mgm",
    "toolkit.models.llava",
    "toolkit.evaluation.benchmarks",
    "toolkit.evaluation",
    "toolkit.training",
)
"""Folders of ``toolkit``, lowest first; ``toolkit`` itself is the modules at its root. A folder that is not listed
belongs to the layer of the folder that contains it."""


@cache
def modules() -> dict[str, Path]:
    """Files by the name of their module."""
    found = {}
    for package in ("bettersynth_assets", "toolkit"):
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def edges() -> dict[str, set[str]]:
    """Return for each module the modules of the project that it imports."""
    return {module: imported(path.read_text("utf-8")) for module, path in modules().items()}


def imported(source: str) -> set[str]:
    found = set()
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in modules() else node.module for full in names.values()}
    return found & modules().keys()


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements except those under ``if TYPE_CHECKING``. Expressions contain no imports."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        skipped = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
        waiting += [
            child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr) and child not in skipped
        ]


def folder_of(module: str) -> str:
    return ".".join(modules()[module].relative_to(PROJECT_ROOT).parent.parts)


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return groups of two or more nodes that reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    reach = {node: reached(node) for node in graph}
    groups = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in graph}
    return [set(group) for group in groups if len(group) > 1]


def imports_behind(group: set[str], folders: bool) -> str:
    name = folder_of if folders else str
    return "\n".join(
        f"{module} imports {other}"
        for module, others in edges().items()
        for other in sorted(others)
        if name(module) != name(other) and {name(module), name(other)} <= group
    )


def folder_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, others in edges().items():
        here = folder_of(module)
        graph.setdefault(here, set()).update(folder_of(other) for other in others if folder_of(other) != here)
    return graph


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle() -> None:
    found = circles(edges())
    assert not found, "\n\n".join(imports_behind(group, folders=False) for group in found)


@pytest.mark.slow
def test_no_folders_import_each_other_in_a_circle() -> None:
    found = circles(folder_graph())
    assert not found, "\n\n".join(imports_behind(group, folders=True) for group in found)


def layer_of(module: str) -> str:
    parts = module.split(".")
    has_folder = len(parts) > 2 or modules()[module].name == "__init__.py"
    return parts[1] if len(parts) > 1 and has_folder else TOP


@pytest.mark.parametrize("layer", [*LAYERS, TOP])
def test_a_package_imports_only_lower_ones(layer: str) -> None:
    order = [*LAYERS, TOP]
    wrong = [
        f"{module} imports {other}"
        for module, others in edges().items()
        if module.startswith("bettersynth_assets.") and layer_of(module) == layer
        for other in sorted(others)
        if other.startswith("bettersynth_assets.") and order.index(layer_of(other)) > order.index(layer)
    ]
    assert not wrong, "a lower package imports a higher one (order: LAYERS):\n" + "\n".join(wrong)


def test_every_package_has_a_layer() -> None:
    there = {layer_of(module) for module in modules() if module.startswith("bettersynth_assets.")}
    assert there == {*LAYERS, TOP}


def toolkit_layer_of(module: str) -> str:
    folder = folder_of(module)
    while folder not in TOOLKIT_LAYERS:
        folder = folder.rpartition(".")[0]
    return folder


@pytest.mark.parametrize("layer", TOOLKIT_LAYERS)
def test_a_folder_of_the_toolkit_imports_lower_ones_only(layer: str) -> None:
    inside = [module for module in modules() if module.startswith("toolkit.") and toolkit_layer_of(module) == layer]
    assert inside, f"{layer} has no modules: take it out of TOOLKIT_LAYERS"
    wrong = [
        f"{module} imports {other}"
        for module in inside
        for other in sorted(edges()[module])
        if other.startswith("toolkit.") and TOOLKIT_LAYERS.index(toolkit_layer_of(other)) > TOOLKIT_LAYERS.index(layer)
    ]
    assert not wrong, "a lower folder imports a higher one (order: TOOLKIT_LAYERS):\n" + "\n".join(wrong)


def test_every_folder_of_the_toolkit_has_a_layer() -> None:
    folders = {".".join(folder_of(module).split(".")[:2]) for module in modules() if module.startswith("toolkit.")}
    assert folders <= {*TOOLKIT_LAYERS}


def test_the_evaluation_and_the_training_name_no_architecture() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in edges().items()
        if module.startswith(("toolkit.data.", "toolkit.evaluation.", "toolkit.training."))
        for other in others
        if folder_of(other).startswith(("toolkit.models.mgm", "toolkit.models.llava"))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_toolkit_does_not_import_bettersynth_assets() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in edges().items()
        if module.split(".")[0] == "toolkit"
        for other in others
        if other.split(".")[0] != "toolkit"
    ]
    assert not wrong, "\n".join(wrong)


def test_circles_are_found_and_type_checking_imports_are_ignored() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []
    guarded = "if TYPE_CHECKING:\n    import toolkit.files\nelse:\n    import toolkit.process\n"
    inside = "def f():\n    from toolkit import registry\n"
    assert imported(guarded + inside) == {"toolkit.process", "toolkit.registry"}
