"""Base of every settings class. In: a mapping read from YAML or JSON. Out: a frozen, validated object, and its key.

Every field counts in keys (docs/keys.md), so a new field can never reuse what was made without it. The exceptions are
marked where the field is declared::

    class Loader(SettingsModel):
        side: int = Field(default=336, ge=1)
        workers: Annotated[int, NotInKey("processes give the same rows")] = 0

    Loader(side=224, workers=8).key() == {"side": 224}
    Loader(workers=8).key() == {}

A field at its default is left out of the key, so that adding a field whose default keeps the behaviour leaves all data
valid. The price: a *changed* default does not show in keys. Raise the stage's version when you change one.
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
_REPR.maxstring = _REPR.maxother = 200  # a path is shown whole
_UNION_TYPES = frozenset({"int", "float", "str", "bool", "none", "path"})


class SettingsError(ValueError):
    """Settings that cannot be used; names the key, its value and the fix in one line."""


@dataclass(frozen=True)
class NotInKey:
    """Marks a field that never counts in keys, as in ``Annotated[int, NotInKey("reason")]``."""

    reason: str
    """Why results do not depend on the field, or what else in the key stands for it."""


class CountsFor:
    """Marks a field that counts only in the keys of some uses, as in ``Annotated[int, CountsFor("captions")]``."""

    def __init__(self, *uses: str) -> None:
        self.uses = uses


class SettingsModel(BaseModel):
    """A frozen section of settings; unknown keys are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    error: ClassVar[type[ValueError]] = SettingsError
    """What ``parse`` raises."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic reads true as 1.
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must not be true or false")
        return value

    @classmethod
    def parse(cls, values: object, *, where: str = "") -> Self:
        """Validate a mapping read from YAML or JSON.

        Args:
            values: what the file held.
            where: the file, for error messages.

        Raises:
            ValueError: of the class's type ``error``, in one line: the key, its value and, for an unknown key, the
                nearest valid one.
        """
        prefix = f"{where}: " if where else ""
        if not isinstance(values, Mapping):
            raise cls.error(f"{prefix}expected a mapping of keys, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise cls.error("; ".join(f"{prefix}{words}" for words in explain(cls, error))) from None

    @classmethod
    def extra_keys(cls) -> tuple[str, ...]:
        """Keys that a file may hold besides the fields, for the list of valid keys in errors."""
        return ()

    def key(self, use: str | None = None) -> dict[str, Any]:
        """JSON values of all fields that count and are not at their default, for keys.

        Args:
            use: what the key is for; fields that count for other uses alone are left out. None takes all.
        """
        absent, defaults = object(), self.defaults()
        found = {name: _plain(getattr(self, name), use) for name in self.counting(use)}
        return {name: value for name, value in found.items() if value != defaults.get(name, absent)}

    @classmethod
    def counting(cls, use: str | None = None) -> list[str]:
        """Names of the fields that count in keys: all without a marker that says otherwise."""
        return [name for name in cls.model_fields if not_in_key(cls, name) is None and _counts_for(cls, name, use)]

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """JSON values of the defaults of those fields that count in keys and have one."""
        fields = {name: cls.model_fields[name] for name in cls.counting()}
        optional = {name: field for name, field in fields.items() if not field.is_required()}
        return {name: _plain(field.get_default(call_default_factory=True)) for name, field in optional.items()}

    def changed(self, **values: Any) -> Self:
        """A validated copy with other values; ``model_copy`` does not validate.

        Raises:
            ValueError: as ``parse``.
        """
        return self.parse({**dict(self), **values})


def not_in_key(model: type[BaseModel], name: str) -> str | None:
    """Why a field does not count in keys; None for one that counts."""
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, NotInKey)]
    return marks[0].reason if marks else None


def _counts_for(model: type[BaseModel], name: str, use: str | None) -> bool:
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, CountsFor)]
    return use is None or not marks or use in marks[0].uses


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Faults as ``key = value: what is wrong``; those of one key (alternatives of a union) are joined."""
    found: dict[str, list[str]] = {}
    for item in error.errors():
        path = [part for part in item["loc"] if not _is_union_tag(part)]
        name = ".".join(map(str, path)) or "(whole file)"
        if item["type"] == "extra_forbidden":
            start, words = f"unknown key {name!r}", nearest(str(path[-1]), _keys(model, path[:-1]))
        elif item["type"] == "missing":
            start, words = f"key {name!r} is missing", "add it"
        else:
            value, words = item["input"], item["msg"].removeprefix("Value error, ")
            # What relates several keys of a section names them itself.
            is_section = item["type"] == "value_error" and isinstance(value, Mapping)
            start = "" if not path else name if is_section else f"{name} = {_REPR.repr(value)}"
        found.setdefault(start, []).append(words)
    return [f"{start}: {', or '.join(words)}" if start else ", ".join(words) for start, words in found.items()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Settings classes inside a field's type, e.g. of ``list[Stage] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def _takes_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_bool(inner) for inner in get_args(annotation))


def _keys(model: type[BaseModel], path: list[int | str]) -> list[str]:
    """Valid keys of the section that ``path`` leads to from ``model``."""
    for part in path:
        field = model.model_fields.get(str(part))
        model = model if field is None else next(models_in(field.annotation), model)
    return [*model.model_fields, *(model.extra_keys() if issubclass(model, SettingsModel) else ())]


def _is_union_tag(part: int | str) -> bool:
    """Whether a part of an error's location names an alternative of a union and no key of the file."""
    return isinstance(part, str) and (part in _UNION_TYPES or part.startswith(_UNION_TAGS))


def _plain(value: Any, use: str | None = None) -> Any:
    if isinstance(value, SettingsModel):
        return value.key(use)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, use) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, use) for inner in value]
    return to_jsonable_python(value)
