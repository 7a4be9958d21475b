"""Base of every configuration class: YAML mapping in, frozen validated object out, unknown keys refused by name."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bettersynth_assets.config.names import check_name
from bettersynth_assets.errors import ConfigError, nearest
from toolkit.settings_files import SettingsFileError, read_settings_file

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that this package lies in: a checkout, or ``site-packages``."""
SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
"""In an installed package: its copies of the checkout's ``profiles``, ``recipes`` and ``dagster.yaml``."""
PROJECT_ROOT = Path.cwd() if SHIPPED.is_dir() else PACKAGE_ROOT
"""The checkout; for an installed package, the folder in which the program was started. Default place of the data."""


class ConfigModel(BaseModel):
    """A frozen section of a profile or recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: object, *, where: str) -> Self:
        """Validate a mapping read from YAML.

        Args:
            values: what the YAML held.
            where: the file, for error messages.

        Raises:
            ConfigError: naming the key, its value and, for an unknown key, the nearest valid one.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a mapping of keys, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(cls, item, where) for item in error.errors())) from None

    @classmethod
    def extra_keys(cls) -> tuple[str, ...]:
        """Keys that a file may hold besides the fields, for the list of valid keys in errors."""
        return ()


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}: {nearest(path[-1], _fields(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{where}: key {name!r} is missing: add it"
    value = reprlib.repr(item["input"])
    return f"{where}: {name} = {value}: {item['msg'].removeprefix('Value error, ')}"


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that ``path`` leads to from ``model``."""
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return [*model.model_fields, *(model.extra_keys() if issubclass(model, ConfigModel) else ())]


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes`` put over it, section by section; a list is taken as a whole."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def shipped_files(folder: str) -> dict[str, Path]:
    """Profiles or recipes that can be named without a path, those of the project's folder before the package's."""
    places = [place / folder for place in (SHIPPED, PROJECT_ROOT) if (place / folder).is_dir()]
    return {file.stem: file for place in places for file in sorted(place.glob("*.yaml"))}


def read_yaml(name: str, folder: str) -> tuple[dict[str, Any], Path]:
    """Read a profile or recipe, by the name of a shipped one or by the path of the user's own file.

    Args:
        name: ``third_place`` for the shipped ``<folder>/third_place.yaml``, or a path ending in ``.yaml`` or ``.yml``.
        folder: ``recipes`` or ``profiles``.

    Returns:
        The file's keys and values, with ``name`` set to the file's name where it has none; and the file.

    Raises:
        ConfigError: no such file (with the shipped names), not strict YAML, or a name that cannot be a folder's.
    """
    kind = folder[:-1]
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"{kind} {name!r} not found: no such file {path.absolute()}")
    else:
        known = shipped_files(folder)
        if name not in known:
            raise ConfigError(f"{kind} {name!r} not found: {nearest(name, known)}, or give the path of a .yaml")
        path = known[name]
    try:
        values = read_settings_file(path)
    except SettingsFileError as error:
        raise ConfigError(f"{path} is not a valid {kind}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{kind} {path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected a mapping of keys, found {found}")
    try:
        check_name(kind, values.setdefault("name", path.stem))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; set `name` in the file") from None
    return values, path
