"""The files that a run's rows and their questions come from, as one value. In: paths. Out: ``SeedSource``."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.errors import SeedError
from toolkit.file_errors import patiently

QUESTIONS_FILE = "stage_1.json"
"""Name of the questions file next to a seed file."""


@dataclass(frozen=True, kw_only=True)
class SeedSource:
    """A seed file, its questions file, and the limits for its rows."""

    file: Path
    """Absolute path; it may not exist (``checked_file``)."""
    questions: Path
    """Absolute path of the questions file, which may not exist."""
    questions_named: str | None
    """The path as the profile names it, which must then exist; None for the file next to the seed file."""
    decoded: Path
    """Folder for the decoded lines of compressed and Parquet files."""
    limits: Limits
    is_generated: bool = False
    """Whether the files belong to the generated miniature world."""

    @property
    def images(self) -> Path:
        """Folder that image paths in the seed file are relative to."""
        return self.file.parent

    def checked_file(self) -> Path:
        """Return the path of the seed file.

        Raises:
            SeedError: the file does not exist or is not a regular file.
            EnvironmentFault: the file system does not allow access.
        """
        path = self.file
        try:
            mode = patiently(lambda: path.stat().st_mode, path, seen=False)
        except OSError:
            mode = 0
        if stat.S_ISDIR(mode):
            raise SeedError(f"seed {path} is a folder: name the file in it that contains the rows")
        if mode and not stat.S_ISREG(mode):
            raise SeedError(f"seed {path} is a pipe or a device, which cannot be read twice: copy the rows into a file")
        if not mode:
            raise SeedError(
                f"seed file {path} does not exist: set BETTERSYNTH_SEED, or `seed` in the profile, to a kit JSONL or "
                "LLaVA JSON file with its images next to it; without either, the miniature world is used"
            )
        return path
