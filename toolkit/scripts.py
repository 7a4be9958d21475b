"""Entry points that run the kit's shell scripts with bash in the working directory, for an installed package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn


def train_mgm_2b_stage_1() -> NoReturn:
    """Run ``train_mgm_2b_stage_1.sh`` (``bettersynth-train-mgm-2b-stage-1``)."""
    _run("train_mgm_2b_stage_1.sh")


def download_mgm_2b() -> NoReturn:
    """Run ``download.sh`` (``bettersynth-download-mgm-2b``)."""
    _run("download.sh")


def _run(script: str) -> NoReturn:
    environment = {"PYTHON": sys.executable, **os.environ}
    os.execvpe("bash", ["bash", str(Path(__file__).parent / script), *sys.argv[1:]], environment)
