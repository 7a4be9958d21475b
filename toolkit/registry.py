"""Named implementations that can be added from outside: benchmarks, architectures, scorers, captioners.

A registry knows its built-in names as ``module:attribute`` and imports one only when it is asked for, so that listing
names costs nothing. There are two ways to add a name, neither of which changes a file of this package:

- an extension file, listed under ``extensions`` in a profile or plan, that calls ``REGISTRY.register(name, value)``;
- an entry point of an installed package, in the group that the registry names.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
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
        """A hash of the code behind a name from outside; None for a built-in, whose code has a version of its own.

        Raises:
            RegistryError: the extension file has changed since it was imported: the hash of neither version says what
                code runs, here and in processes that start now.
        """
        if name in self._built_in:
            return None
        found = self._entry_points().get(name)
        if name not in self._added and found is not None and found.dist is not None:
            return f"{found.dist.name} {found.dist.version}"
        value = self.get(name)
        module = sys.modules.get(getattr(value, "__module__", type(value).__module__))
        file = getattr(module, "__file__", None)
        return _digest(Path(file), Path(file).read_bytes()) if file else None

    def code_key(self, key: str, name_of: Callable[[], str | None]) -> dict[str, str]:
        """The part of a key that identifies code from outside: its fingerprint by ``key``, or nothing for a built-in.

        Args:
            key: what the fingerprint is called.
            name_of: finds the name, or None where nothing is registered; called only where names come from outside.
        """
        if not self.from_outside():
            return {}
        name = name_of()
        code = self.fingerprint(name) if name in self.names() else None
        return {} if name is None or code is None else {key: code}

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


_imported: dict[str, str] = {}
"""SHA-256 of each extension file that this process has imported, by its path."""


def load_extensions(paths: Iterable[str | Path]) -> None:
    """Import extension files, each once per process; what they register is then known.

    Args:
        paths: Python files. They should import heavy libraries inside functions only.

    Raises:
        RegistryError: a file that is missing, that fails while it is imported, or that has changed since it was; names
            the file and the cause.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise RegistryError(f"extensions: {str(path)!r} is no file: give the path of a Python file")
        source = path.read_bytes()
        digest, place = _digest(path.absolute(), source), str(path.absolute())
        name = f"bettersynth_extension_{path.stem}_{digest[:12]}"
        if name in sys.modules:
            continue
        module = ModuleType(name)
        module.__file__ = place
        sys.modules[name] = module  # what it defines is pickled by reference
        try:
            # Not by the import system, which may take bytecode of an older content of the same size and second.
            exec(compile(source, place, "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise RegistryError(f"extensions: {path} cannot be imported: {type(error).__name__}: {error}") from error
        _imported[place] = digest


def _digest(path: Path, source: bytes) -> str:
    """SHA-256 of a file, which is refused where this process has imported another content of it."""
    digest = hashlib.sha256(source).hexdigest()
    if _imported.get(str(path), digest) != digest:
        raise RegistryError(
            f"extensions: {path} has changed since this process imported it, and what it registered is in use: start "
            "the process again (in the Dagster UI: reload the code location), or undo the change"
        )
    return digest
