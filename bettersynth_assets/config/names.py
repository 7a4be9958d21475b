"""Validation of names that become folders of the data root, e.g. of profiles and recipes."""

from __future__ import annotations

import re

from bettersynth_assets.errors import ConfigError

LONGEST_NAME = 100
EXPERIMENT = "experiment_"
"""What the names of an experiment's group, job and asset keys begin with."""
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
"""Dagster's tags for the first and last partition of a run."""
RESERVED_NAMES = frozenset(
    {"all", "arms", "batch_sizes.json", "current", "experiments", "features", "miniature-world", "runs", "shared"}
)
"""Names that the project itself uses for files and folders of the data root; compared case-insensitively."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TEMPORARY = (".lock", ".partial", ".tmp")


def check_name(kind: str, name: object) -> str:
    """Check a name that becomes part of a path.

    Args:
        kind: kind of the named object, for the error: ``recipe``, ``profile``, ``arm``.
        name: the name as the user wrote it.

    Raises:
        ConfigError: the name is not a string of letters, digits, ``-``, ``_`` and ``.``, does not start with a letter,
            a digit or ``_``, is too long, or is reserved.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{kind} name {name!r} is not a string: put it in quotes")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{kind} name {name!r}: use letters (a-z, A-Z), digits, '-', '_' and '.', and start with a letter, a digit "
            "or '_'"
        )
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"{kind} name {name[:20] + '…'!r} has {len(name)} characters: use at most {LONGEST_NAME}")
    if name.lower() in RESERVED_NAMES or name.lower().endswith(_TEMPORARY):
        raise ConfigError(f"{kind} name {name!r} is reserved for files of the data root: choose another name")
    return name
