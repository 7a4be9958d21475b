"""Registries of named implementations that users can extend: benchmarks, architectures, scorers, captioners.

Built-in names are stored as ``module:attribute`` and imported on first use, so that listing names imports nothing.
There are two ways to add a name without changing this package:

- an extension file, listed under ``extensions`` in a profile or plan, that calls ``REGISTRY.register(name, value)``;
- an entry point of an installed package, in the registry's entry-point group.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from toolkit.suggest import nearest

T = TypeVar("T")


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points of a group by name, read once per search path: they are in the metadata of every package."""
    return {point.name: point for point in entry_points(group=group)}


class RegistryError(ValueError):
    """An unknown name, a name that is already registered, or an extension file that cannot be loaded."""


class Registry(Generic[T]):
    """Implementations of one kind, by name.

    Args:
        kind: singular noun for the values, used in error messages.
        group: entry-point group, e.g. ``bettersynth.benchmarks``.
        built_in: ``module:attribute`` by name.
    """

    def __init__(self, kind: str, *, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._added: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Add an implementation; registering the same value again has no effect.

        Raises:
            RegistryError: the name is registered with another value.
        """
        if name in self._built_in or self._added.get(name, value) is not value:
            raise RegistryError(f"{self.kind} {name!r} is already registered: choose another name")
        self._added[name] = value
        return value

    def names(self) -> list[str]:
        """Return all known names, sorted."""
        return sorted({*self._built_in, *self._added, *self._entry_points()})

    def from_outside(self) -> list[str]:
        """Return the names that are not built in, sorted."""
        return sorted({*self._added, *self._entry_points()} - {*self._built_in})

    def get(self, name: str) -> T:
        """Return the implementation that is registered under a name.

        Raises:
            RegistryError: the name is unknown; the message lists the known names.
        """
        if name in self._added:
            return self._added[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            value: T = getattr(importlib.import_module(module), attribute)
            return value
        entry_point = self._entry_points().get(name)
        if entry_point is None:
            raise RegistryError(f"unknown {self.kind} {name!r}: {nearest(name, self.names())}")
        loaded: T = entry_point.load()
        return loaded

    def fingerprint(self, name: str) -> str | None:
        """Return a hash of the code behind an added name; None for a built-in name, whose code is versioned separately.

        Raises:
            RegistryError: the extension file has changed since it was imported. This process runs the old code and new
                processes would run the new code, so neither hash is correct.
        """
        if name in self._built_in:
            return None
        entry_point = self._entry_points().get(name)
        if name not in self._added and entry_point is not None and entry_point.dist is not None:
            return f"{entry_point.dist.name} {entry_point.dist.version}"
        value = self.get(name)
        module = sys.modules.get(getattr(value, "__module__", type(value).__module__))
        file = getattr(module, "__file__", None)
        return _digest(Path(file), Path(file).read_bytes()) if file else None

    def code_key(self, key: str, name_of: Callable[[], str | None]) -> dict[str, str]:
        """Return ``{key: fingerprint}`` for an added name and ``{}`` for a built-in name, as part of a stage's key.

        Args:
            key: the entry's name in the stage's key.
            name_of: finds the registered name, or None. Called only if this registry has added names.
        """
        if not self.from_outside():
            return {}
        name = name_of()
        code = self.fingerprint(name) if name in self.names() else None
        return {} if name is None or code is None else {key: code}

    def _entry_points(self) -> dict[str, EntryPoint]:
        return _entry_points(self.group, tuple(sys.path))


_imported: dict[str, str] = {}
"""SHA-256 of each extension file that this process has imported, by its path."""


def load_extensions(paths: Iterable[str | Path]) -> None:
    """Import extension files, each once per process, so that they can register implementations.

    Args:
        paths: Python files. They should import heavy libraries inside functions only.

    Raises:
        RegistryError: a file does not exist, cannot be imported, or has changed since this process imported it; the
            message names the file and the cause.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise RegistryError(f"extensions: {str(path)!r} is not a file: give the path of a Python file")
        source = path.read_bytes()
        digest, place = _digest(path.absolute(), source), str(path.absolute())
        name = f"bettersynth_extension_{path.stem}_{digest[:12]}"
        if name in sys.modules:
            continue
        module = ModuleType(name)
        module.__file__ = place
        sys.modules[name] = module  # pickle looks up the module's classes and functions here
        try:
            # The import system might use stale bytecode if the file changed within a second and kept its size.
            exec(compile(source, place, "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise RegistryError(f"extensions: {path} cannot be imported: {type(error).__name__}: {error}") from error
        _imported[place] = digest


def _digest(path: Path, source: bytes) -> str:
    """Return the SHA-256 of a file; refuse a file of which this process has imported another version."""
    digest = hashlib.sha256(source).hexdigest()
    if _imported.get(str(path), digest) != digest:
        raise RegistryError(
            f"extensions: {path} has changed since this process imported it, and the imported version is in use: "
            "restart the process (in the Dagster UI: reload the code location), or undo the change"
        )
    return digest
