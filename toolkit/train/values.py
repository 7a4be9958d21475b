"""Plain values of a file to the frozen dataclasses of a plan. In: mappings. Out: checked objects, or a named fault."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class PlanError(ValueError):
    """A plan that cannot be run; names the key, its value and the fix."""


def build(kind: type[T], values: Any) -> T:
    """Make a dataclass of plain values.

    Raises:
        PlanError: no mapping, unknown or missing key, wrong type, value out of range.
    """
    if not isinstance(values, Mapping):
        raise PlanError(f"{kind.__name__} needs keys and values, not {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            raise PlanError(f"unknown key {key!r}; {'did you mean ' + repr(near[0]) if near else 'remove it'}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise PlanError(f"{kind.__name__}: key {name!r} is missing")
    return kind(**{name: _coerce(name, str(fields[name].type), value) for name, value in values.items()})


def _coerce(name: str, kind: str, value: Any) -> Any:
    """Turn JSON's values into what the field wants: paths from strings, floats from integers (and YAML's 1e-3)."""
    if value is None:
        need("None" in kind, name, value, "must not be null")
        return None
    wanted = kind.split(" | ")[0]
    try:
        if wanted == "Path":
            return Path(value)
        if wanted == "float":
            number = float(value)
            need(not isinstance(value, bool) and math.isfinite(number), name, value, "must be a number")
            return number
        if wanted == "int":
            need(isinstance(value, int) and not isinstance(value, bool), name, value, "must be a whole number")
        if wanted == "bool":
            need(isinstance(value, bool), name, value, "must be true or false")
        if wanted.startswith("tuple"):
            need(isinstance(value, list | tuple), name, value, "must be a list")
            return tuple(value)
    except (TypeError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{name}: {value!r} cannot be used ({error})") from error
    return value


def one_of(key: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones."""
    need(value in known, key, value, f"is unknown; use one of {', '.join(known)}")


def need(holds: bool, key: str, value: object, fix: str) -> None:
    """Refuse a value unless the condition holds; ``fix`` ends the sentence."""
    if not holds:
        raise PlanError(f"{key}: {str(value)!r} {fix}")
