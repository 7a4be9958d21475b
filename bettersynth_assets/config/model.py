"""Base of every configuration class. In: a YAML file. Out: a frozen, validated object; unknown keys are errors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bettersynth_assets.config.names import check_name
from bettersynth_assets.errors import ConfigError
from toolkit.settings import SettingsModel
from toolkit.settings_files import SettingsFileError, read_settings_file
from toolkit.suggest import nearest

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains this package: a checkout, or ``site-packages``."""
SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
"""In an installed package: its copies of the checkout's ``profiles``, ``recipes`` and ``dagster.yaml``."""
PROJECT_ROOT = Path.cwd() if SHIPPED.is_dir() else PACKAGE_ROOT
"""The checkout; for an installed package, the working directory at import. The default data root is below it."""


SUFFIXES = (".yaml", ".yml")


class ConfigModel(SettingsModel):
    """A frozen section of a profile or recipe."""

    error = ConfigError


def merged(base: Any, changes: Any) -> Any:
    """Merge ``changes`` into ``base`` recursively; a list in ``changes`` replaces the list in ``base``."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def shipped_files(folder: str) -> dict[str, Path]:
    """Return the profiles or recipes that can be given by name; files of the project override those of the package."""
    places = [place / folder for place in (SHIPPED, PROJECT_ROOT) if (place / folder).is_dir()]
    return {file.stem: file for place in places for file in sorted(place.glob("*.yaml"))}


def files_of_folders(variable: str, env: Mapping[str, str], kind: str) -> list[Path]:
    """Return the YAML files of the user's folders, which an environment variable names as ``PATH`` does.

    Raises:
        ConfigError: a folder does not exist.
    """
    files: list[Path] = []
    for named in filter(None, env.get(variable, "").split(os.pathsep)):
        folder = Path(named).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"{variable}: {str(folder)!r} is not a folder: name folders of {kind} files (.yaml)")
        files += sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return list(dict.fromkeys(files))


def read_yaml(name: str, folder: str) -> tuple[dict[str, Any], Path]:
    """Read a profile or recipe, by the name of a shipped one or by the path of the user's own file.

    Args:
        name: ``third_place`` for the shipped ``<folder>/third_place.yaml``, or a path ending in ``.yaml`` or ``.yml``.
        folder: ``recipes`` or ``profiles``.

    Returns:
        The file's keys and values, with ``name`` set to the file's stem if it is missing; and the path of the file.

    Raises:
        ConfigError: the file does not exist (the message lists the shipped names), is not strict YAML, or has a name
            that cannot be used for a folder.
    """
    kind = folder[:-1]
    if name.endswith(SUFFIXES):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"{kind} {name!r} not found: no such file {path.absolute()}")
    else:
        known = shipped_files(folder)
        if name not in known:
            raise ConfigError(f"{kind} {name!r} not found: {nearest(name, known)}, or give the path of a .yaml file")
        path = known[name]
    try:
        values = read_settings_file(path)
    except SettingsFileError as error:
        raise ConfigError(f"{path} is not a valid {kind}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{kind} {path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        type_name = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: expected a mapping of keys, found {type_name}")
    try:
        check_name(kind, values.setdefault("name", path.stem))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; set `name` in the file") from None
    return values, path
