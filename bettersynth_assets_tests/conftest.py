"""Fixtures that several packages of tests share."""

from __future__ import annotations

import pytest

import toolkit as toolkit  # before anything imports torchvision beside a CPU build of torch
from bettersynth_assets_tests.models import TinyModels, make_all


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """One tiny random model of each class, made once."""
    return make_all(tmp_path_factory.mktemp("tiny-models"))
