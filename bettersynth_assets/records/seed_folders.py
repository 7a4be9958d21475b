"""Tells missing folders from missing images. In: an ingested shard. Out: ``EnvironmentFault``, or nothing."""

from __future__ import annotations

import errno
import math

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.records.seed_file import SeedIndex
from bettersynth_assets.records.seed_ingest import Ingested
from toolkit.file_errors import EnvironmentFault

SHOWN_FOLDERS = 3
FEW_ROWS = 3
"""A shard with at least this many missing images and no existing one is a fault of the environment."""


def check_folders(ingested: Ingested, index: SeedIndex, limits: Limits) -> None:
    """Tell missing folders, e.g. of a disk that is not mounted, from rows that name an image that never existed.

    Missing or empty folders are a fault of the environment if their rows are so large a share of the whole seed that
    the check of quarantined rows would fail anyway. Below that share, the rows are quarantined and checked again in
    each run. A shard without any existing image is a fault of the environment too.

    Raises:
        EnvironmentFault: folders are missing; the message names them.
    """
    root = index.path.parent
    if ingested.missing_folders:
        folders = tuple(sorted(ingested.missing_folders))
        rows = sum(image.startswith(folders) for image in index.images)
        if rows > limits.max_quarantined_share * len(index):
            shown = ", ".join(str(root / folder) for folder in folders[:SHOWN_FOLDERS])
            share = math.ceil(1000 * rows / len(index)) / 1000
            suffix = f" and {len(folders) - SHOWN_FOLDERS} more" if len(folders) > SHOWN_FOLDERS else ""
            raise EnvironmentFault(
                f"folder {shown}{suffix} is missing or empty, and {rows} of the seed's {len(index)} rows name images "
                "in it: mount or restore it and run again (to quarantine the rows instead, set "
                f"`limits.max_quarantined_share` in the profile to at least {share})",
                str(root / folders[0]),
                errno.ENOENT,
            )
    if ingested.missing >= FEW_ROWS and not ingested.existing:
        raise EnvironmentFault(
            f"none of the {ingested.missing} images of this shard is under {root}: image paths are relative to the "
            "seed file's folder; put the images there and run again",
            str(root),
            errno.ENOENT,
        )
