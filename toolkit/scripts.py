"""The kit's shell scripts as commands of an installed package: each runs bash on its script, in the working folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def train_mgm_2b_stage_1() -> NoReturn:
    """``bettersynth-train-mgm-2b-stage-1``; see ``train_mgm_2b_stage_1.sh``."""
    _run("train_mgm_2b_stage_1.sh")


def download_mgm_2b() -> NoReturn:
    """``bettersynth-download-mgm-2b``; see ``download.sh``."""
    _run("download.sh")


def _run(script: str) -> NoReturn:
    environment = {"PYTHON": sys.executable, **os.environ}
    os.execvpe("bash", ["bash", str(Path(__file__).parent / script), *sys.argv[1:]], environment)
