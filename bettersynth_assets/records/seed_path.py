"""Location of the seed. In: settings. Out: the seed file, and the folder that image paths are relative to."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from bettersynth_assets.config.profile import resolve
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import SeedError
from toolkit.file_errors import patiently
from toolkit.files import replacing

REGENERATED = "regenerated"
"""First folder in the paths of images that a recipe regenerates."""


def seed_path(settings: Settings) -> Path:
    """Return the absolute path of the seed file; the miniature world's if the profile names none.

    Raises:
        SeedError: the file does not exist or is not a regular file.
        EnvironmentFault: the file system does not allow access.
    """
    named = settings.profile.seed
    path = settings.world.seed_file if named is None else Path(resolve(named)).expanduser().absolute()
    try:
        mode = patiently(lambda: path.stat().st_mode, path, seen=False)
    except OSError:
        mode = 0
    if stat.S_ISDIR(mode):
        raise SeedError(f"seed {path} is a folder: name the file in it that contains the rows")
    if mode and not stat.S_ISREG(mode):
        raise SeedError(f"seed {path} is a pipe or a device, which cannot be read twice: copy the rows into a file")
    if not mode:
        raise SeedError(
            f"seed file {path} does not exist: set BETTERSYNTH_SEED, or `seed` in profile {settings.profile.name!r}, "
            "to a kit JSONL or LLaVA JSON file with its images next to it; without either, the miniature world is used"
        )
    return path


def image_root(settings: Settings) -> Path:
    """Return the folder that image paths of rows are relative to.

    This is the seed file's folder. If the recipe regenerates images, it is a folder of the recipe that combines both:
    links to all entries of the seed file's folder, and a link ``regenerated`` to the shards of recaptioned_set, which
    contain the new images.

    Raises:
        SeedError: the seed file's folder has an entry ``regenerated``.
    """
    seed = seed_path(settings).parent
    if settings.recipe.regenerate is None:
        return seed
    root = settings.recipe_root
    if not (root / "image_root" / REGENERATED).is_symlink():  # removed since this process created it
        _combined.cache_clear()
    return _combined(seed, root / "image_root", root / "recaptioned_set", seed.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _combined(seed: Path, view: Path, regenerated: Path, changed_ns: int) -> Path:
    """Create the missing links; safe when several processes do so at once. ``changed_ns`` invalidates the cache."""
    wanted = {entry.name: Path(entry.path) for entry in os.scandir(seed)}
    if REGENERATED in wanted:
        raise SeedError(
            f"{wanted[REGENERATED]}: the name is reserved for images that the recipe regenerates: rename it"
        )
    wanted[REGENERATED] = regenerated
    view.mkdir(parents=True, exist_ok=True)
    for name, target in wanted.items():
        link = view / name
        if not link.is_symlink() or link.readlink() != target:
            with replacing(link, durable=False) as partial:
                partial.symlink_to(target)
    return view
