"""Where the seed lies. In: settings. Out: its file, and the folder that the image paths of its rows are relative to."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import SeedError
from toolkit.file_errors import patiently

REGENERATED = "regenerated"
"""Where the paths of images that a recipe makes begin."""


def seed_path(settings: Settings) -> Path:
    """The seed file, absolute; the miniature world's where the profile names none.

    Raises:
        SeedError: no such file, or no regular one.
        EnvironmentFault: the environment keeps us from looking.
    """
    named = settings.profile.seed
    path = settings.world.seed_file if named is None else Path(resolve(named)).expanduser().absolute()
    try:
        mode = patiently(lambda: path.stat().st_mode, path, seen=False)
    except OSError:
        mode = 0
    if stat.S_ISDIR(mode):
        raise SeedError(f"seed {path} is a folder: name the file in it that holds the rows")
    if mode and not stat.S_ISREG(mode):
        raise SeedError(f"seed {path} is a pipe or a device, which cannot be read twice: copy the rows into a file")
    if not mode:
        raise SeedError(
            f"seed file {path} does not exist: set BETTERSYNTH_SEED, or `seed` in profile {settings.profile.name!r}, "
            "to a kit JSONL or LLaVA JSON file with its images beside it (or leave both out for the miniature world)"
        )
    return path


def image_root(settings: Settings) -> Path:
    """What the image paths of the rows are relative to.

    The folder of the seed file; where the recipe makes images, a folder of the recipe's that shows both: links to all
    that lies beside the seed file, and as ``regenerated`` the shards of recaptioned_set with the new ones.

    Raises:
        SeedError: the seed has a ``regenerated`` of its own.
    """
    seed = seed_path(settings).parent
    if settings.recipe.regenerate is None:
        return seed
    root = settings.recipe_root
    if not (root / "image_root" / REGENERATED).is_symlink():  # removed since this process made it
        _both.cache_clear()
    return _both(seed, root / "image_root", root / "recaptioned_set", seed.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _both(seed: Path, view: Path, made: Path, changed_ns: int) -> Path:
    """Make the links that are not there; several processes may do so at once."""
    wanted = {entry.name: Path(entry.path) for entry in os.scandir(seed)}
    if REGENERATED in wanted:
        raise SeedError(f"{wanted[REGENERATED]}: images that the recipe makes go by that name: give it another one")
    wanted[REGENERATED] = made
    view.mkdir(parents=True, exist_ok=True)
    for name, target in wanted.items():
        link, partial = view / name, view / f".{name}.{os.getpid()}.partial"
        if not link.is_symlink() or link.readlink() != target:
            partial.unlink(missing_ok=True)
            partial.symlink_to(target)
            partial.replace(link)
    return view
