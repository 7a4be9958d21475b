"""Settings = one profile, one recipe, one data root. In: the environment. Out: a frozen ``Settings``.

Configuration comes from files and the environment, because the Dagster UI cannot carry run config through a backfill
of several partitions. ``BETTERSYNTH_PROFILE`` and ``BETTERSYNTH_RECIPE`` take a shipped name or a path,
``BETTERSYNTH_SEED`` the user's own seed file, ``BETTERSYNTH_DATA`` the data root (default ``data`` in the project).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import Profile, load_profile
from bettersynth_assets.config.recipe import Recipe, load_recipe
from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.errors import ConfigError

DEFAULT_PROFILE = "miniature"
DEFAULT_RECIPE = "third_place"
BASELINE_RECIPE = "baseline_random"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one run of the graph works with."""

    profile: Profile
    recipe: Recipe
    data_root: Path

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ConfigError(
                f"budget = {self.budget}: a training set needs at least 1 exposure; set `budget` to 1 or more"
            )

    @property
    def budget(self) -> int:
        """Exposures that the budgeted set holds: the recipe's number, else the profile's."""
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
        """Holds what no recipe changes: seed, scores, profile of the seed, baseline arm."""
        return self.profile_root / "shared"

    @property
    def world(self) -> WorldPaths:
        """Files of the miniature world; a run generates them where the profile names none."""
        return WorldPaths(root=self.data_root / "miniature-world")

    def with_recipe(self, name: str) -> Settings:
        """The same profile and data root with another recipe."""
        return replace(self, recipe=load_recipe(name))

    def with_benchmarks(self, names: Sequence[str]) -> Settings:
        """The same settings with some of the profile's benchmarks.

        Raises:
            ConfigError: a benchmark that the profile does not evaluate.
        """
        try:
            evaluation = self.profile.evaluation.only(names)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return replace(self, profile=self.profile.model_copy(update={"evaluation": evaluation}))


def load_active_profile(env: Mapping[str, str] = os.environ) -> Profile:
    """Read the profile of this process: all that the graph's shape (shards, schedule) needs.

    Raises:
        ConfigError: a profile that cannot be used.
    """
    profile = load_profile(env.get("BETTERSYNTH_PROFILE") or DEFAULT_PROFILE)
    if seed := env.get("BETTERSYNTH_SEED"):
        profile = profile.model_copy(update={"seed": str(Path(seed).expanduser().absolute())})
    return profile


def load_settings(env: Mapping[str, str] = os.environ, *, recipe: str | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        env: the environment.
        recipe: overrides ``BETTERSYNTH_RECIPE``, e.g. from one launch's run config.

    Raises:
        ConfigError: a profile, recipe or seed that cannot be used.
    """
    profile = load_active_profile(env)
    root = Path(env.get("BETTERSYNTH_DATA") or PROJECT_ROOT / "data").expanduser().absolute()
    name = recipe or env.get("BETTERSYNTH_RECIPE") or DEFAULT_RECIPE
    return Settings(profile=profile, recipe=load_recipe(name), data_root=root)


def check_data_root(root: Path, *, writing: bool = False) -> None:
    """Check that a data root can be used, before any shard is started.

    Args:
        root: the folder, which need not exist.
        writing: True where something has to be written; a data root in which all is up to date may be read-only.

    Raises:
        ConfigError: naming BETTERSYNTH_DATA, the folder and the cause.
    """
    # The nearest thing that exists decides whether the rest can be made.
    there = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if there.is_symlink() and not there.exists():
        cause = f"{there} is a link to {there.readlink()}, which does not exist"
    elif not there.is_dir():
        cause = f"{there} is not a folder"
    elif not os.access(there, os.R_OK | os.X_OK):
        cause = f"{there} may not be read by this user"
    elif (writing or there != root) and not (os.access(there, os.W_OK) and _holds_files(there)):
        cause = f"nothing can be written in {there}"
    else:
        return
    raise ConfigError(f"BETTERSYNTH_DATA = {str(root)!r} cannot be used: {cause}; name a folder that can be written")


def _holds_files(folder: Path) -> bool:
    """Whether files can be made in a folder, as they cannot in /proc whatever its permissions say."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
