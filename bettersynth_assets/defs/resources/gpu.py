"""The profile's ``gpu`` section as a Dagster resource. In: the section, and a launch's values. Out: ``Settings``.

The resource's fields are generated from the section, so a new field of the section needs no change here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self, get_args, get_origin

import dagster as dg
from pydantic import Field, create_model

from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.settings import Settings

_PLAIN = (bool, int, float, str)


class SectionResource(dg.ConfigurableResource):
    """The profile's ``gpu`` section; a launch may override its values (see ``resource_of``)."""

    @classmethod
    def of(cls, section: Gpu) -> Self:
        """Create the resource with a profile's values."""
        return cls(**section.model_dump(mode="json"))

    def apply(self, settings: Settings) -> Settings:
        """Return ``settings`` with this launch's values instead of the profile's.

        Raises:
            ConfigError: a value is not valid in a profile.
        """
        section = settings.profile.gpu
        given = {name: getattr(self, name) for name in type(section).model_fields if hasattr(self, name)}
        changed = {name: _read(name, value) for name, value in given.items() if value is not None}
        gpu = type(section).parse(dict(section) | changed, where="resource gpu")
        return replace(settings, profile=settings.profile.model_copy(update={"gpu": gpu}))


def resource_of(name: str, section: type[Gpu]) -> type[SectionResource]:
    """Create a resource class with an optional field, including the description, for every field of a section."""
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        kinds = _kinds(field.annotation)
        # Dagster does not support unions of plain types; the section validates such fields.
        kind = kinds.pop() | None if len(kinds) == 1 else Any
        text = " ".join((field.description or "").replace("``", "`").split())
        fields[key] = (kind, Field(default=None, description=text))
    return create_model(name, __base__=SectionResource, __module__=__name__, __doc__=section.__doc__, **fields)


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types of a field's values, without None; containers count as one type."""
    if annotation in _PLAIN:
        return {annotation}
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (list, tuple, dict):
        return {get_origin(annotation)}
    return set().union(*map(_kinds, get_args(annotation)))


def _read(name: str, value: Any) -> Any:
    """Convert a launch's value to the profile's form: ``devices`` may be written as ``0,1``."""
    is_list = name == "devices" and isinstance(value, str) and value not in ("auto", "cpu")
    return [part.strip() for part in value.split(",")] if is_list else value


GpuResource = resource_of("GpuResource", Gpu)
