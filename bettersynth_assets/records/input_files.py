"""Versions of the user's files that a run reads. In: a ``SeedSource``. Out: a version per file.

A run that read two versions of a file would mix their rows. The pipeline records the versions at its start and commits
a result only while they are unchanged.
"""

from __future__ import annotations

from pathlib import Path

from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.seed_file import signature_of
from bettersynth_assets.records.seed_source import SeedSource

Versions = dict[str, str]
"""Signatures by kind and path of the file, e.g. ``seed file /data/seed.jsonl``."""


def input_versions(seed: SeedSource) -> Versions:
    """Return the versions of the seed and questions files; empty if the miniature world is generated."""
    if seed.is_generated:
        return {}
    files = {"seed file": seed.checked_file(), "questions file": seed.questions}
    return {f"{kind} {path}": _version(path) for kind, path in files.items()}


def refuse_changed(at_start: Versions, current: Versions) -> None:
    """Compare the versions at the start of a run with the current ones.

    Raises:
        SeedError: a file has changed; the message names it.
    """
    for name in at_start.keys() | current.keys():
        if at_start.get(name) != current.get(name):
            raise SeedError(f"{name} has changed during this run, which would mix two versions of it: run again")


def _version(path: Path) -> str:
    try:
        return "-".join(map(str, signature_of(path)))
    except FileNotFoundError:
        return "absent"
