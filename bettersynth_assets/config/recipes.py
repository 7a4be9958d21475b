"""All recipes that have assets. In: the profile and the environment. Out: the recipes, the default one first.

They are the recipes of the project (or the package) and those of the folders in ``BETTERSYNTH_RECIPES``, which are
separated as in ``PATH``. Every recipe has its own assets and its own folder of results, so names are unique.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bettersynth_assets.config.model import SUFFIXES, files_of_folders, shipped_files
from bettersynth_assets.config.profile import Profile, resolve
from bettersynth_assets.config.recipe import Recipe, load_recipe
from bettersynth_assets.errors import ConfigError
from toolkit.suggest import nearest

FOLDERS = "BETTERSYNTH_RECIPES"
REMOVED = "BETTERSYNTH_RECIPE"


def load_recipes(profile: Profile, env: Mapping[str, str] = os.environ) -> tuple[Recipe, ...]:
    """Load every recipe; the profile's default recipe comes first.

    Raises:
        ConfigError: a file is not a valid recipe, two recipes have the same name, a folder does not exist, the default
            recipe is unknown, or the environment has the variable that earlier versions used.
    """
    refuse_removed_variable(env)
    by_name: dict[str, tuple[Path, Recipe]] = {}
    for path in [*shipped_files("recipes").values(), *files_of_folders(FOLDERS, env, "recipe")]:
        _add(by_name, path)
    name = profile.default_recipe
    if name.endswith(SUFFIXES):
        path = Path(resolve(name)).expanduser()
        known = [recipe.name for file, recipe in by_name.values() if file.absolute() == path.absolute()]
        name = known[0] if known else _add(by_name, path).name
    if name not in by_name:
        raise ConfigError(f"profile {profile.name!r}: default_recipe = {_unknown(name, by_name)}")
    recipes = {key: recipe for key, (_, recipe) in by_name.items()}
    return recipes.pop(name), *recipes.values()


def find_recipe(name: str, profile: Profile, env: Mapping[str, str] = os.environ) -> Recipe:
    """Return one recipe, by its name or by the path of its file.

    Raises:
        ConfigError: see ``load_recipes``, or no recipe has this name.
    """
    return choose_recipe(name, () if name.endswith(SUFFIXES) else load_recipes(profile, env))


def choose_recipe(name: str, recipes: Sequence[Recipe]) -> Recipe:
    """Return the recipe of this name, or that of the file at this path.

    Raises:
        ConfigError: no recipe has this name, or the file is not a valid recipe.
    """
    if name.endswith(SUFFIXES):
        return load_recipe(name)
    by_name = {recipe.name: recipe for recipe in recipes}
    if name not in by_name:
        raise ConfigError(f"recipe {_unknown(name, by_name)}, or give the path of a .yaml file")
    return by_name[name]


def identifier(name: str) -> str:
    """Return a recipe's name as Dagster accepts it for jobs and groups: letters, digits and ``_`` only."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def refuse_removed_variable(env: Mapping[str, str]) -> None:
    """Refuse ``BETTERSYNTH_RECIPE``, which selected the recipe of a run in earlier versions.

    Raises:
        ConfigError: the variable is set; the message says how to select a recipe's assets.
    """
    if value := env.get(REMOVED):
        raise ConfigError(f"{REMOVED} = {value!r} is not supported any more: {how_to_select(value)}; then unset it")


def how_to_select(value: str) -> str:
    """Return how to select the assets of a recipe, given its name or the path of its file."""
    name = Path(value).stem if value.endswith(SUFFIXES) else value
    folder = f"put the file into a folder that {FOLDERS} names and " if value.endswith(SUFFIXES) else ""
    return (
        f"every recipe has its own assets; {folder}select them, e.g. `dg launch --assets "
        f"'key:\"{name}/recaptioned_set\"+'` or `dg launch --job {identifier(name)}` (the assets of the profile's "
        "default_recipe have plain names: `--assets 'recaptioned_set+'`)"
    )


def _add(by_name: dict[str, tuple[Path, Recipe]], path: Path) -> Recipe:
    recipe = load_recipe(str(path))
    for other, (file, _) in by_name.items():
        # Upper and lower case are the same folder on some file systems.
        if identifier(other).lower() == identifier(recipe.name).lower():
            raise ConfigError(
                f"{path}: the recipe's name {recipe.name!r} and {other!r} of {file} are the same name in Dagster: set "
                "another `name` in one of the files, or rename it"
            )
    by_name[recipe.name] = (path, recipe)
    return recipe


def _unknown(name: str, known: Mapping[str, object]) -> str:
    return f"{name!r} not found: {nearest(name, known)}"
