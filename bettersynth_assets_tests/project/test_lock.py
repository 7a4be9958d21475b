"""requirements.lock against pyproject.toml and against the packages' own requirements, for each supported Python."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from bettersynth_assets.config.model import PROJECT_ROOT

PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = [f"3.{minor}" for minor in range(30) if SpecifierSet(PROJECT["requires-python"]).contains(f"3.{minor}.99")]
DEPENDENCIES = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
LEFT_OUT = re.compile(r"nvidia-(?!ml-py)|cuda-|triton$")
"""Packages of torch's CUDA build, which brings them itself."""


@cache
def environment(python: str) -> dict[str, str]:
    """Return the values of environment markers on this machine, for another Python."""
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.9", "extra": ""}


def pins(python: str) -> dict[str, Version]:
    """Return name and version of each package that the lock installs on a Python."""
    found: dict[str, Version] = {}
    for line in (PROJECT_ROOT / "requirements.lock").read_text("utf-8").splitlines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment(python)):
            (version,) = pin.specifier
            name = canonicalize_name(pin.name)
            assert version.operator == "==" and name not in found, f"{line}: one exact version for each package"
            found[name] = Version(version.version)
    return found


def test_the_supported_pythons_are_those_of_the_classifiers() -> None:
    assert [f"Programming Language :: Python :: {python}" for python in PYTHONS] == PROJECT["classifiers"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_dependency_and_extra(python: str) -> None:
    pinned = pins(python)
    assert len(DEPENDENCIES) > 40
    for requirement in map(Requirement, DEPENDENCIES):
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"] or (requirement.marker and not requirement.marker.evaluate(environment(python))):
            continue
        assert name in pinned, f"{requirement} has no pin on Python {python}: `make lock`"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: the lock has {pinned[name]}: `make lock`"


@cache
def declared(name: str) -> list[Requirement]:
    """Return a package's requirements from its metadata, or from pyproject.toml for this project."""
    return [*map(Requirement, DEPENDENCIES if name == PROJECT["name"] else distribution(name).requires or [])]


def required(name: str, extras: frozenset[str], python: str) -> Iterator[Requirement]:
    """Return a package's requirements on a Python, with extras."""
    for requirement in declared(name):
        values = [environment(python) | {"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, values)):
            yield requirement


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_the_requirements_of_its_packages(python: str) -> None:
    pinned = pins(python)
    todo: list[tuple[str, frozenset[str]]] = [(PROJECT["name"], frozenset())]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        for requirement in required(name, extras, python):
            needed = canonicalize_name(requirement.name)
            if LEFT_OUT.match(needed) or needed == PROJECT["name"]:
                continue
            assert needed in pinned, f"{name} requires {requirement} on Python {python}, which has no pin: `make lock`"
            assert requirement.specifier.contains(pinned[needed], prereleases=True), (
                f"{name} requires {requirement} on Python {python}, the lock has {pinned[needed]}: `make lock`"
            )
            pair = (needed, frozenset(requirement.extras))
            if pair not in seen and installed(needed) == pinned[needed]:
                todo.append(pair)
            seen.add(pair)
    assert len(seen) > 150


@cache
def installed(name: str) -> Version | None:
    """Return the installed version without a local part such as ``+cpu``; None if it is not installed."""
    try:
        return Version(Version(distribution(name).version).public)
    except PackageNotFoundError:
        return None
