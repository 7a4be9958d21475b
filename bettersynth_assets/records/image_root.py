"""One folder for the images of a seed file and those that a recipe regenerates. In: folders. Out: links to them.

<root>/images, ...      links to all entries of the seed file's folder
<root>/regenerated      link to the folder of the shards that contain the new images
"""

from __future__ import annotations

import os
from pathlib import Path

from bettersynth_assets.errors import SeedError
from toolkit.files import replacing

REGENERATED = "regenerated"
"""First folder in the paths of images that a recipe regenerates."""


def link_images(root: Path, *, seed_images: Path, regenerated: Path) -> None:
    """Create the missing links; safe when several processes do so at once.

    Args:
        root: the combined folder.
        seed_images: the seed file's folder.
        regenerated: folder of the shards; it need not exist.

    Raises:
        SeedError: the seed file's folder has an entry ``regenerated``.
    """
    targets = {entry.name: Path(entry.path) for entry in os.scandir(seed_images)}
    if REGENERATED in targets:
        raise SeedError(
            f"{targets[REGENERATED]}: the name is reserved for images that the recipe regenerates: rename it"
        )
    targets[REGENERATED] = regenerated
    root.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        link = root / name
        if not link.is_symlink() or link.readlink() != target:
            with replacing(link, durable=False) as partial:
                partial.symlink_to(target)
