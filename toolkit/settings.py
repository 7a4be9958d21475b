"""Base of every settings class. In: a mapping read from YAML or JSON. Out: a frozen, validated object, and its key.

Every field is part of the keys of stored results (docs/keys.md), so that a new field never reuses results that were
computed without it. Exceptions are marked where the field is declared::

    class Loader(SettingsModel):
        side: int = Field(default=336, ge=1)
        workers: Annotated[int, NotInKey("rows do not depend on the number of processes")] = 0

    Loader(side=224, workers=8).key() == {"side": 224}
    Loader(workers=8).key() == {}

A field at its default is left out of the key. A new field whose default keeps the behaviour therefore does not
invalidate stored results. The cost: changing a default does not change keys. Raise the stage's version if you do so.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import to_jsonable_python

from toolkit.suggest import nearest

_UNION_TAGS = ("literal[", "list[", "dict[", "tuple[", "constrained-", "function-", "nullable[", "lax-or-strict[")
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200  # long enough not to shorten a path
_UNION_TYPES = frozenset({"int", "float", "str", "bool", "none", "path"})


class SettingsError(ValueError):
    """Invalid settings; the one-line message names the key, its value and the fix."""


@dataclass(frozen=True)
class NotInKey:
    """Marks a field that is never part of a key: ``Annotated[int, NotInKey("reason")]``."""

    reason: str
    """Why results do not depend on the field, or which other part of the key represents it."""


class CountsFor:
    """Marks a field that is part of the keys of some uses only: ``Annotated[int, CountsFor("captions")]``."""

    def __init__(self, *uses: str) -> None:
        self.uses = uses


class SettingsModel(BaseModel):
    """A frozen section of settings; an unknown key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    error: ClassVar[type[ValueError]] = SettingsError
    """Exception type that ``parse`` raises."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic converts true to 1.
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must not be true or false")
        return value

    @classmethod
    def parse(cls, values: object, *, where: str = "") -> Self:
        """Validate a mapping read from YAML or JSON.

        Args:
            values: the parsed content of the file.
            where: the file, for error messages.

        Raises:
            ValueError: of the type ``cls.error``. The one-line message names the key and its value and, for an unknown
                key, the nearest valid one.
        """
        prefix = f"{where}: " if where else ""
        if not isinstance(values, Mapping):
            raise cls.error(f"{prefix}expected a mapping of keys, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise cls.error("; ".join(f"{prefix}{problem}" for problem in explain(cls, error))) from None

    @classmethod
    def extra_keys(cls) -> tuple[str, ...]:
        """Return keys that a file may contain in addition to the fields, for error messages."""
        return ()

    def key(self, use: str | None = None) -> dict[str, Any]:
        """Return the JSON values of all fields that are part of the key and differ from their defaults.

        Args:
            use: what the key is for; fields marked for other uses only are left out. None includes all uses.
        """
        absent, defaults = object(), self.defaults()
        values = {name: _plain(getattr(self, name), use) for name in self.counting(use)}
        return {name: value for name, value in values.items() if value != defaults.get(name, absent)}

    @classmethod
    def counting(cls, use: str | None = None) -> list[str]:
        """Return the names of the fields that are part of keys: all fields that no marker excludes."""
        return [name for name in cls.model_fields if not_in_key(cls, name) is None and _counts_for(cls, name, use)]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default values, as JSON, of the optional fields that are part of keys."""
        fields = {name: cls.model_fields[name] for name in cls.counting()}
        optional = {name: field for name, field in fields.items() if not field.is_required()}
        return {name: _plain(field.get_default(call_default_factory=True)) for name, field in optional.items()}

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with some values replaced; ``model_copy`` does not validate.

        Raises:
            ValueError: as ``parse``.
        """
        return self.parse({**dict(self), **values})


def not_in_key(model: type[BaseModel], name: str) -> str | None:
    """Return why a field is not part of keys; None if it is."""
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, NotInKey)]
    return marks[0].reason if marks else None


def _counts_for(model: type[BaseModel], name: str, use: str | None) -> bool:
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, CountsFor)]
    return use is None or not marks or use in marks[0].uses


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Format errors as ``key = value: problem``; errors of one key (alternatives of a union) are joined."""
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        path = [part for part in item["loc"] if not _is_union_tag(part)]
        name = ".".join(map(str, path)) or "(whole file)"
        if item["type"] == "extra_forbidden":
            start, problem = f"unknown key {name!r}", nearest(str(path[-1]), _keys(model, path[:-1]))
        elif item["type"] == "missing":
            start, problem = f"key {name!r} is missing", "add it"
        else:
            value, problem = item["input"], item["msg"].removeprefix("Value error, ")
            # A validator that relates several keys of a section names them in its message.
            is_section = item["type"] == "value_error" and isinstance(value, Mapping)
            start = "" if not path else name if is_section else f"{name} = {_REPR.repr(value)}"
        problems.setdefault(start, []).append(problem)
    return [f"{start}: {', or '.join(problem)}" if start else ", ".join(problem) for start, problem in problems.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings classes inside a field's type, e.g. ``Stage`` in ``list[Stage] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def _takes_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_bool(inner) for inner in get_args(annotation))


def _keys(model: type[BaseModel], path: list[int | str]) -> list[str]:
    """Return the valid keys of the section at ``path`` below ``model``."""
    for part in path:
        field = model.model_fields.get(str(part))
        model = model if field is None else next(models_in(field.annotation), model)
    return [*model.model_fields, *(model.extra_keys() if issubclass(model, SettingsModel) else ())]


def _is_union_tag(part: int | str) -> bool:
    """Return whether a part of an error's location names an alternative of a union rather than a key of the file."""
    return isinstance(part, str) and (part in _UNION_TYPES or part.startswith(_UNION_TAGS))


def _plain(value: Any, use: str | None = None) -> Any:
    if isinstance(value, SettingsModel):
        return value.key(use)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, use) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, use) for inner in value]
    return to_jsonable_python(value)
