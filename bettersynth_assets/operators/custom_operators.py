"""Operators of a recipe. In: its ``custom_operators`` files. Out: classes in Data-Juicer's registry.

The files run as programs, so they need ``trusted_code: true`` in the profile. Every process that checks, keys or runs a
recipe's lists first calls ``use_custom_operators``: it registers exactly that recipe's operators besides the installed
ones, from the current contents of the files. A content is compiled from the hashed bytes, once per process.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import all_specs, forget_spec, is_known, register_spec
from bettersynth_assets.operators.operator_calls import attempt, one_line
from bettersynth_assets.operators.sandbox import operator_environment, registry
from bettersynth_assets.operators.spec import OperatorSpec
from bettersynth_assets.operators.trust import FIX, is_reviewed

Content = tuple[str, str]
"""Path of a file and SHA-256 of its bytes."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Operators and specs that a file registers."""

    operators: dict[str, type]
    specs: tuple[OperatorSpec, ...]


_imported: dict[Content, Registered] = {}
_in_use: dict[Content, Registered] = {}


def use_custom_operators(files: Sequence[str], *, recipe: str, trusted_code: bool) -> None:
    """Register a recipe's operators and unregister those of other recipes; no-op if this is already the case.

    Args:
        files: paths of the recipe's Python files.
        recipe: name of the recipe, for errors.
        trusted_code: setting of the profile.

    Raises:
        ConfigError: the profile does not allow code; a file is missing, fails on import, registers no operator, or
            uses the name of an existing one. Names file and cause.
    """
    sources = _sources(files, recipe, trusted_code)
    if [*sources] == [*_in_use]:
        return
    _unregister_all()
    try:
        for content, source in sources.items():
            _in_use[content] = _imported[content] = _register(recipe, content, source)
    except BaseException:
        _unregister_all()
        raise


def custom_names() -> set[str]:
    """Return the names of the operators of the current recipe's files."""
    return {name for registered in _in_use.values() for name in registered.operators}


def content_of(files: Sequence[str]) -> list[str]:
    """Hash a recipe's files; a missing file has the empty text."""
    paths = map(Path, files)
    return [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths]


def code_key(names: Iterable[str]) -> dict[str, str]:
    """Return the version of external operators' code, by name: a hash of the file, or the package's version."""
    custom = {name: content[1] for content, registered in _in_use.items() for name in registered.operators}
    external = {name: custom.get(name) or _installed(name) for name in names if not is_known(name)}
    return {f"{name}.code": code for name, code in external.items() if code}


def _sources(files: Sequence[str], recipe: str, trusted_code: bool) -> dict[Content, bytes]:
    """Read the files."""
    if files and not trusted_code:
        raise ConfigError(f"recipe {recipe!r}: custom_operators runs the code of {', '.join(files)}: {FIX}")
    sources = {}
    for path in files:
        if not Path(path).is_file():
            raise ConfigError(
                f"recipe {recipe!r}: custom_operators: no file {path}: use the path of a Python file, relative "
                "to the recipe's"
            )
        source = Path(path).read_bytes()
        sources[path, hashlib.sha256(source).hexdigest()] = source
    return sources


def _unregister_all() -> None:
    for registered in _in_use.values():
        for name in registered.operators:
            registry().modules.pop(name, None)
        for spec in registered.specs:
            forget_spec(spec.name)
    _in_use.clear()


def _register(recipe: str, content: Content, source: bytes) -> Registered:
    """Import a file, or register again what it has registered before."""
    modules, where = registry().modules, f"recipe {recipe!r}: custom_operators: {content[0]}"
    modules_before, specs = dict(modules), all_specs()
    imported = _imported.get(content)
    try:
        if imported is None:
            _import(where, content, source)
        else:
            modules.update(imported.operators)
            for spec in imported.specs:
                register_spec(spec)
        operators = {name: kind for name, kind in modules.items() if modules_before.get(name) is not kind}
        if duplicates := sorted(operators.keys() & modules_before.keys()):
            raise ConfigError(f"{where} registers {duplicates[0]!r}, which already exists: choose another name")
        if not operators:
            raise ConfigError(
                f"{where} registers no operator: decorate a class with @OPERATORS.register_module('its_name'), or "
                "remove the file"
            )
    except BaseException:
        modules.clear()
        modules.update(modules_before)
        for name in all_specs().keys() - specs.keys():
            forget_spec(name)
        raise
    return Registered(operators=operators, specs=tuple(spec for name, spec in all_specs().items() if name not in specs))


def _import(where: str, content: Content, source: bytes) -> None:
    path, digest = content
    module = ModuleType(f"bettersynth_custom_{Path(path).stem}_{digest[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # operators are pickled by reference
    with operator_environment():
        # Bypass the import system, which could use bytecode of an older content of equal size and modification second.
        _, error = attempt(lambda: exec(compile(source, path, "exec"), module.__dict__))
    if error is None:
        return
    del sys.modules[module.__name__]
    if isinstance(error, KeyError) and "is already registered" in str(error):
        name = str(error.args[0]).split()[0]
        raise ConfigError(f"{where} registers {name!r}, which already exists: choose another name") from error
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = f" (line {lines[-1]})" if lines else ""
    raise ConfigError(f"{where} cannot be imported: {one_line(error)}{line}: correct the file") from error


def _installed(name: str) -> str | None:
    """Return name and version of an operator's package, else a hash of its module; None for our own."""
    operator = registry().modules.get(name)
    if operator is None or is_reviewed(operator):
        return None
    packages = packages_distributions().get(operator.__module__.split(".")[0])
    if packages:
        return f"{packages[0]} {version(packages[0])}"
    file = getattr(sys.modules.get(operator.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
