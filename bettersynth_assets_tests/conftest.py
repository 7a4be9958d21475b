"""Fixtures that several packages of tests share."""

from __future__ import annotations

import os

# Before torch is imported. The models are tiny: more threads take longer, also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal
import tempfile
from pathlib import Path

import pytest

import toolkit as toolkit  # before anything imports torchvision with a CPU build of torch
from bettersynth_assets_tests.helpers.graph_fixtures import data_root, instance, materialize  # noqa: F401
from tiny_models.profile_models import TinyModels, make_all

os.environ.setdefault("BETTERSYNTH_FILE_PATIENCE", "0.05")  # do not wait for files that tests remove on purpose


def pytest_configure() -> None:
    """Put all temporary folders into one whose name has spaces, so that all tests cover such paths.

    Also make SIGINT effective: a script's shell starts background commands with SIGINT ignored, children inherit that,
    and tests that interrupt a child would wait for it forever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        root = Path(tempfile.gettempdir()) / f"a folder with spaces {os.getuid()}"
        root.mkdir(exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(root)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the longest tests first, so that no process is left with one of them at the end."""
    rank: dict[Path, int] = {}
    for item in items:
        own = 0 if item.get_closest_marker("e2e") else 1 if item.get_closest_marker("slow") else 2
        rank[item.path] = min(own, rank.get(item.path, 2))
    items.sort(key=lambda item: rank[item.path])


def pytest_collection_finish() -> None:
    """Exclude the millions of objects of imported libraries from later garbage collections."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One tiny random model of each class, created once per session."""
    return make_all(tmp_path_factory.mktemp("tiny-models"))
