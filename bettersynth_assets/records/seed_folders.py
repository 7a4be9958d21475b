"""Missing images: the rows' fault, or that of a disk. In: an ingested shard. Out: nothing, or ``EnvironmentFault``."""

from __future__ import annotations

import errno

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.records.seed_file import SeedIndex
from bettersynth_assets.records.seed_ingest import Ingested
from toolkit.file_errors import EnvironmentFault

SHOWN_FOLDERS = 3
FEW_ROWS = 3
"""A shard of which so many images are missing and none is there is not the rows' fault."""


def check_folders(done: Ingested, index: SeedIndex, limits: Limits) -> None:
    """Tell missing folders, as of a disk that is not mounted, from rows that name an image that never was.

    Rows of missing or empty folders count as a fault of the environment where they are so large a share of the whole
    seed that the check of quarantined rows would refuse it anyway. Below that they are quarantined, and looked at again
    in each run. A shard none of whose images is there is a fault of the environment too.

    Raises:
        EnvironmentFault: naming the folders.
    """
    root = index.path.parent
    if done.gone:
        folders = tuple(sorted(done.gone))
        rows = sum(image.startswith(folders) for image in index.images)
        if rows > limits.max_quarantined_share * len(index):
            shown = ", ".join(str(root / folder) for folder in folders[:SHOWN_FOLDERS])
            more = f" and {len(folders) - SHOWN_FOLDERS} more" if len(folders) > SHOWN_FOLDERS else ""
            raise EnvironmentFault(
                f"folder {shown}{more} is missing or empty, and {rows} of the seed's {len(index)} rows name images in "
                "it: mount it or put it back and run again (with `limits.max_quarantined_share` in the profile above "
                "that share, the rows are quarantined)",
                str(root / folders[0]),
                errno.ENOENT,
            )
    if done.missing >= FEW_ROWS and not done.found:
        raise EnvironmentFault(
            f"none of the {done.missing} images of this shard is under {root}: put them beside the seed file, whose "
            "folder image paths are relative to, and run again",
            str(root),
            errno.ENOENT,
        )
