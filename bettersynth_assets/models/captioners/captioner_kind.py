"""Determines the kind of a captioner. In: a folder, hub id or address. Out: ``blip-2``, ``llava``, ... or None.

Nothing is loaded or downloaded: the kind follows from a folder's ``config.json``, a hub id or a served model's name.
"""

from __future__ import annotations

from pathlib import Path

from bettersynth_assets.config.model_type import model_type
from bettersynth_assets.config.profile import resolve
from bettersynth_assets.models.captioners import CAPTIONERS


def captioner_kind(model: str) -> str | None:
    """Return the kind of a profile's ``models.captioner``; None if it is unknown."""
    folder = Path(resolve(str(Path(model).expanduser())))
    if folder.is_dir() and (kind := model_type(str(folder))[0]):
        return kind
    return next((name for name in CAPTIONERS.names() if CAPTIONERS.get(name).names.search(model)), None)
