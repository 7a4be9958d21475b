"""Named implementations that can be added from outside: benchmarks, architectures, scorers, captioners.

A registry knows its built-in names as ``module:attribute`` and imports one only when it is asked for, so that listing
names costs nothing. There are two ways to add a name, neither of which changes a file of this package:

- an extension file, listed under ``extensions`` in a profile or plan, that calls ``REGISTRY.register(name, value)``;
- an entry point of an installed package, in the group that the registry names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from toolkit.suggest import nearest

T = TypeVar("T")


class RegistryError(ValueError):
    """A name that nothing is registered under, a name used twice, or an extension file that cannot be loaded."""


class Registry(Generic[T]):
    """Implementations of one kind by name.

    Args:
        kind: what the values are, in the singular, for error messages.
        group: entry-point group, e.g. ``bettersynth.benchmarks``.
        built_in: ``module:attribute`` by name.
    """

    def __init__(self, kind: str, *, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._added: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Add an implementation; registering the same value again is allowed.

        Raises:
            RegistryError: the name is taken.
        """
        if name in self._built_in or self._added.get(name, value) is not value:
            raise RegistryError(f"{self.kind} {name!r} is registered already: choose another name")
        self._added[name] = value
        return value

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self._built_in, *self._added, *self._entry_points()})

    def from_outside(self) -> list[str]:
        """The names that are not built in, sorted."""
        return sorted({*self._added, *self._entry_points()} - {*self._built_in})

    def get(self, name: str) -> T:
        """The implementation of a name.

        Raises:
            RegistryError: no such name; lists the known ones.
        """
        if name in self._added:
            return self._added[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            value: T = getattr(importlib.import_module(module), attribute)
            return value
        found = self._entry_points().get(name)
        if found is None:
            raise RegistryError(f"unknown {self.kind} {name!r}: {nearest(name, self.names())}")
        loaded: T = found.load()
        return loaded

    def fingerprint(self, name: str) -> str | None:
        """A hash of the code behind a name from outside; None for a built-in, whose code has a version of its own."""
        if name in self._built_in:
            return None
        found = self._entry_points().get(name)
        if name not in self._added and found is not None and found.dist is not None:
            return f"{found.dist.name} {found.dist.version}"
        value = self.get(name)
        module = sys.modules.get(getattr(value, "__module__", type(value).__module__))
        file = getattr(module, "__file__", None)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


def load_extensions(paths: Iterable[str | Path]) -> None:
    """Import extension files, each once per process and content; what they register is then known.

    Args:
        paths: Python files. They should import heavy libraries inside functions only.

    Raises:
        RegistryError: a file that is missing or that fails while it is imported; names the file and the cause.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise RegistryError(f"extensions: {str(path)!r} is no file: give the path of a Python file")
        name = f"bettersynth_extension_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise RegistryError(f"extensions: {str(path)!r} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise RegistryError(f"extensions: {path} cannot be imported: {type(error).__name__}: {error}") from error
