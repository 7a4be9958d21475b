"""Fixtures that several packages of tests share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

import toolkit as toolkit  # before anything imports torchvision beside a CPU build of torch
from bettersynth_assets_tests.models import TinyModels, make_all

os.environ.setdefault("BETTERSYNTH_FILE_PATIENCE", "0.05")  # files that are missing on purpose are not waited for


def pytest_configure() -> None:
    """Put every temporary folder below one whose name has spaces, so that all tests cover such paths."""
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        root = Path(tempfile.gettempdir()) / f"a folder with spaces {os.getuid()}"
        root.mkdir(exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One tiny random model of each class, made once."""
    return make_all(tmp_path_factory.mktemp("tiny-models"))
