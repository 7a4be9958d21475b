"""Version of the code that runs, to be stored with results. It is not part of any key."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version

from bettersynth_assets.config.model import PACKAGE_ROOT, SHIPPED

PACKAGE = "bettersynth-assets"


@cache
def code_version() -> str:
    """Return the commit of this checkout, with ``+`` if files were changed; the version of an installed package.

    Cached, because a process keeps the code that it has imported.
    """
    if SHIPPED.is_dir() or not (PACKAGE_ROOT / ".git").exists():
        return version(PACKAGE)
    command = ["git", "-C", str(PACKAGE_ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version(PACKAGE)
