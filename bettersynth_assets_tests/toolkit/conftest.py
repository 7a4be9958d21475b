"""Installs the hook that makes torchvision importable with a CPU torch, before any test module imports it."""

from pathlib import Path

import pytest

import toolkit  # noqa: F401


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and a small LLaVA set."""
    from bettersynth_assets_tests.helpers.llava_rows import write_rows
    from toolkit.models.mgm.tiny import save_tiny

    folder = tmp_path_factory.mktemp("train")
    save_tiny(folder / "base")
    write_rows(folder, pictures=6, text_only=4)
    return folder


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint and both benchmarks in their official layouts."""
    from bettersynth_assets_tests.helpers.benchmark_files import write_benchmarks

    return write_benchmarks(tmp_path_factory.mktemp("bench"))
