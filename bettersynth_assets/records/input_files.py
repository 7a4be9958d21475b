"""The user's files that a run reads from its beginning to its end. In: settings. Out: which version each of them is.

A run that saw two versions of a file would mix their rows: the pipeline notes the versions when it begins, and
everything that is made is committed only while they are still the same.
"""

from __future__ import annotations

from pathlib import Path

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.questions import questions_place
from bettersynth_assets.records.seed_file import signature_of
from bettersynth_assets.records.seed_path import seed_path

Versions = dict[str, str]
"""Signatures by what the file is and where it is, e.g. ``seed file /data/seed.jsonl``."""


def input_versions(settings: Settings) -> Versions:
    """Versions of the seed file and the questions file; nothing where the miniature world is generated."""
    if settings.profile.seed is None:
        return {}
    files = {"seed file": seed_path(settings), "questions file": questions_place(settings)}
    return {f"{what} {path}": _version(path) for what, path in files.items()}


def refuse_changed(before: Versions, now: Versions) -> None:
    """Compare what a run saw first with what is there now.

    Raises:
        SeedError: naming the file that was changed.
    """
    for name in before.keys() | now.keys():
        if before.get(name) != now.get(name):
            raise SeedError(f"{name} was changed during this run, which would mix two versions of it: run again")


def _version(path: Path) -> str:
    try:
        return "-".join(map(str, signature_of(path)))
    except FileNotFoundError:
        return "absent"
