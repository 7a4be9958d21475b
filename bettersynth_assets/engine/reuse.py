"""Reuses what another recipe has built under the same key, e.g. the captions of a recipe with another budget.

A key does not contain the recipe's name, so a version with the same key has the same rows. Its files are copied,
because each recipe owns its folder: they may be deleted, repaired or replaced without the other one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bettersynth_assets.engine.integrity import DamagedFileError, fault_of
from bettersynth_assets.engine.manifest import Manifest
from bettersynth_assets.engine.store import Slot
from toolkit.file_errors import EnvironmentFault


def find(slot: Slot, key: str, roots: Iterable[Path]) -> Manifest | None:
    """Return the intact version with a key in the same stage and shard of another recipe; None if there is none.

    Args:
        slot: the shard that is missing.
        key: of the wanted version.
        roots: folders of recipes.
    """
    for root in roots:
        if root != slot.root:
            with suppress(DamagedFileError, EnvironmentFault):
                manifest = Slot(root=root, stage=slot.stage, shard=slot.shard).committed()
                if manifest is not None and manifest.key == key and not manifest.faults():
                    return manifest
    return None


def copy(manifest: Manifest, slot: Slot) -> Manifest | None:
    """Commit a copy of a version; the slot's lock must be held.

    Returns:
        The copy; None if the version was removed or changed meanwhile, so that the shard must be built.
    """
    folder = slot.begin(manifest.key, resume=False)
    try:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest.path / name, folder / name)
        for name in manifest.memos:
            shutil.copyfile(manifest.path.parent / name, folder.parent / name)
    except FileNotFoundError:
        return None
    if any(fault_of(folder / name, entry) for name, entry in manifest.files.items()):
        return None
    return slot.commit(manifest)
