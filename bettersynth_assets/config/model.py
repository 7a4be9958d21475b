"""Base of every configuration class: YAML mapping in, frozen validated object out, unknown keys refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bettersynth_assets.errors import ConfigError, nearest

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that this package lies in."""
# A copy that `pip install .` made has no project around it: that is then the folder in which the program was started.
PROJECT_ROOT = PACKAGE_ROOT if (PACKAGE_ROOT / "profiles").is_dir() else Path.cwd()
"""The folder of profiles, recipes and, unless a variable says otherwise, data."""


class ConfigModel(BaseModel):
    """A frozen section of a profile or recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}: {nearest(path[-1], _fields(model, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{where}: key {name!r} is missing: add it"
    return f"{where}: {name} = {item['input']!r}: {item['msg']}"


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that ``path`` leads to from ``model``."""
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return list(model.model_fields)


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes`` put over it, section by section; a list is taken as a whole."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def read_yaml(name: str, folder: str) -> tuple[object, Path]:
    """Read a profile or recipe, by the name of a shipped one or by the path of the user's own file.

    Args:
        name: ``third_place`` for ``<project>/<folder>/third_place.yaml``, or a path ending in ``.yaml`` or ``.yml``.
        folder: ``recipes`` or ``profiles``.

    Raises:
        ConfigError: no such file (with the shipped names), or not YAML.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if is_path else PROJECT_ROOT / folder / f"{name}.yaml"
    if not path.is_file():
        shipped = [file.stem for file in (PROJECT_ROOT / folder).glob("*.yaml")]
        fix = nearest(name, shipped) if shipped else f"start it in the project's folder, which has {folder}/"
        raise ConfigError(f"{folder[:-1]} {name!r} not found at {path}: {fix}, or give the path of a .yaml")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")), path
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
