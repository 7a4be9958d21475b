"""Determines the kind of a captioner. In: a folder, hub id or address. Out: ``blip-2``, ``llava``, ... or None.

Nothing is loaded or downloaded: the kind follows from a folder's ``config.json``, a hub id or a served model's name.
"""

from __future__ import annotations

from pathlib import Path

from bettersynth_assets.config.model import shipped_files
from bettersynth_assets.config.model_type import model_type
from bettersynth_assets.config.profile import Profile, load_profile, resolve
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners import CAPTIONERS


def captioner_kind(model: str) -> str | None:
    """Return the kind of a profile's ``models.captioner``; None if it is unknown."""
    folder = Path(resolve(str(Path(model).expanduser())))
    if folder.is_dir() and (found := model_type(str(folder))[0]):
        return found
    return next((kind for kind in CAPTIONERS.names() if CAPTIONERS.get(kind).names.search(model)), None)


def check_captioner(recipe: Recipe, profile: Profile) -> None:
    """Check that a profile has the kind of captioner that a recipe is written for.

    Raises:
        ConfigError: it has another kind; names the shipped profiles that fit.
    """
    wanted = recipe.caption.captioner if recipe.caption else None
    if wanted is None:
        return
    found = captioner_kind(profile.models.captioner)
    if found == wanted:
        return
    fitting = [
        name
        for name in sorted(shipped_files("profiles"))
        if captioner_kind(load_profile(name).models.captioner) == wanted
    ]
    raise ConfigError(
        f"recipe {recipe.name!r} needs `captioner: {wanted}`, but models.captioner of profile {profile.name!r} is "
        f"{'a ' + found if found else 'of an unknown kind'}: set BETTERSYNTH_PROFILE to "
        f"{' or '.join(fitting) or 'a profile with such a captioner'}, or remove `captioner` from the recipe"
    )
