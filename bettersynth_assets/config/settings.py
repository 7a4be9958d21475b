"""Settings of a run: a profile, a recipe and a data root. In: the environment. Out: a frozen ``Settings``.

Settings come from files and environment variables, because the Dagster UI cannot pass run config to a backfill of
several partitions:

    BETTERSYNTH_PROFILE   name of a shipped file, or path of a YAML file
    BETTERSYNTH_RECIPES   folders with recipes of the user (``config.recipes``)
    BETTERSYNTH_SEED      path of a seed file; overrides the profile's
    BETTERSYNTH_DATA      data root (default: ``data`` in the project)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Profile, load_profile, resolve
from bettersynth_assets.config.recipe import BudgetSection, Recipe
from bettersynth_assets.config.recipes import find_recipe, load_recipes, refuse_removed_variable
from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.errors import ConfigError

DEFAULT_PROFILE = "miniature"
Scope = Literal["seed", "budget", "recipe"]
"""What a result depends on, besides the profile. Results of one scope are stored in one folder (``Settings.root_of``):
``seed`` is the same for all recipes, ``budget`` for all recipes with the same number of exposures."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run of the graph."""

    profile: Profile
    recipe: Recipe
    data_root: Path
    draw_seed: int = BudgetSection().seed
    """Random seed with which the rows of the baseline are drawn."""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ConfigError(
                f"budget = {self.budget}: a training set needs at least 1 exposure; set `budget` to 1 or more"
            )

    @property
    def budget(self) -> int:
        """Number of exposures in the budgeted set: the recipe's value if set, else the profile's."""
        own = self.recipe.budget.exposures
        return self.profile.budget if own is None else own

    @property
    def profile_root(self) -> Path:
        return self.data_root / self.profile.name

    @property
    def recipe_root(self) -> Path:
        return self.profile_root / self.recipe.name

    @property
    def shared_root(self) -> Path:
        """Folder of results that do not depend on the recipe: seed, scores, seed statistics, baselines, answers."""
        return self.profile_root / "shared"

    @property
    def runs_root(self) -> Path:
        """Folder of all training runs of this profile."""
        return self.shared_root / "runs"

    @property
    def experiments_root(self) -> Path:
        """Folder of the long tables of all runs and answers of this profile."""
        return experiments_root(self.data_root, self.profile.name)

    @property
    def baseline_root(self) -> Path:
        """Folder of the baseline of this budget and draw, for all recipes with this budget."""
        return self.shared_root / f"budget_{self.budget}_draw_{self.draw_seed}"

    def root_of(self, scope: Scope) -> Path:
        """Return the folder of the results of a scope."""
        return {"seed": self.shared_root, "budget": self.baseline_root, "recipe": self.recipe_root}[scope]

    @property
    def world(self) -> WorldPaths:
        """Paths of the miniature world, which a run generates if the profile names no files of its own."""
        return WorldPaths(root=self.data_root / "miniature-world")

    def with_benchmarks(self, names: Sequence[str]) -> Settings:
        """Return these settings with a subset of the profile's benchmarks.

        Raises:
            ConfigError: the profile does not evaluate one of the benchmarks.
        """
        try:
            evaluation = self.profile.evaluation.only(names)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return replace(self, profile=self.profile.model_copy(update={"evaluation": evaluation}))

    def for_tuning(self) -> Settings:
        """Return these settings with the questions of the split ``tune``.

        Raises:
            ConfigError: a benchmark has no such questions.
        """
        try:
            evaluation = self.profile.evaluation.changed(split="tune")
        except ValueError as error:
            raise ConfigError(f"profile {self.profile.name}: evaluation: {error}") from None
        return replace(self, profile=self.profile.model_copy(update={"evaluation": evaluation}))


def load_active_profile(env: Mapping[str, str] = os.environ) -> Profile:
    """Load the profile that the environment selects; it determines the graph's structure (shards, schedule).

    Raises:
        ConfigError: the profile cannot be used.
    """
    profile = load_profile(env.get("BETTERSYNTH_PROFILE") or DEFAULT_PROFILE)
    if seed := env.get("BETTERSYNTH_SEED"):
        profile = profile.model_copy(update={"seed": str(Path(seed).expanduser().absolute())})
    return profile


def load_settings(env: Mapping[str, str] = os.environ, *, recipe: str | Recipe | None = None) -> Settings:
    """Load the settings that the environment selects.

    Args:
        env: the environment.
        recipe: a recipe, its name or the path of its file; None: the profile's default recipe.

    Raises:
        ConfigError: the profile, recipe or seed file cannot be used.
    """
    refuse_removed_variable(env)
    profile = load_active_profile(env)
    if recipe is None:
        recipe = load_recipes(profile, env)[0]
    elif isinstance(recipe, str):
        recipe = find_recipe(recipe, profile, env)
    return Settings(profile=profile, recipe=recipe, data_root=data_root(env))


def data_root(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of all results that the environment selects."""
    return Path(env.get("BETTERSYNTH_DATA") or PROJECT_ROOT / "data").expanduser().absolute()


def experiments_root(root: Path, profile: str) -> Path:
    """Return the folder of the long tables and the experiments of a profile, by its name."""
    return root / profile / "experiments"


def seed_label(profile: Profile) -> str | None:
    """Return the seed file's path, relative to the project if it is inside; None for the generated miniature world.

    The history of a project that is moved stays the same.
    """
    if profile.seed is None:
        return None
    path = Path(resolve(profile.seed)).expanduser().absolute()
    return str(path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path)


def check_data_root(root: Path, *, writing: bool = False) -> None:
    """Check that a data root is usable, before the first shard starts.

    Args:
        root: the folder; it need not exist.
        writing: True if results must be written; a data root with up-to-date results may be read-only.

    Raises:
        ConfigError: the data root cannot be used; the message names BETTERSYNTH_DATA, the folder and the cause.
    """
    # The nearest existing parent determines whether the folder can be created.
    there = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if there.is_symlink() and not there.exists():
        cause = f"{there} is a link to {there.readlink()}, which does not exist"
    elif not there.is_dir():
        cause = f"{there} is not a folder"
    elif not os.access(there, os.R_OK | os.X_OK):
        cause = f"this user has no permission to read {there}"
    elif (writing or there != root) and not (os.access(there, os.W_OK) and _holds_files(there)):
        cause = f"{there} is not writable"
    else:
        return
    raise ConfigError(f"BETTERSYNTH_DATA = {str(root)!r} cannot be used: {cause}; set it to a writable folder")


def _holds_files(folder: Path) -> bool:
    """Return whether files can be created in a folder. Permissions alone do not tell, e.g. in /proc."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
