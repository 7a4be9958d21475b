"""A run resolves what its settings name once, when first needed, and takes the values along to worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config import operator_models
from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.resolved_model import ResolvedModel, resolve_model
from bettersynth_assets.engine import resolved_run
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import ConfigError
from bettersynth_assets_tests.helpers.seeds import settings_for

Make = Callable[..., ResolvedRun]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(models: dict[str, Any] | None = None, **sections: Any) -> ResolvedRun:
        settings = settings_for(tmp_path / "seed.jsonl", tmp_path / "data")
        profile = settings.profile
        profile = profile.model_copy(update={"models": profile.models.model_copy(update=models or {})})
        recipe = Recipe.parse({"name": "test", "baseline": True, **sections}, where="test")
        return ResolvedRun(replace(settings, profile=profile, recipe=recipe))

    return run


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of models in the order in which they are resolved."""
    roles: list[str] = []

    def counted(path_or_id: str, *, role: str) -> ResolvedModel:
        roles.append(role)
        return resolve_model(path_or_id, role=role)

    monkeypatch.setattr(resolved_run, "resolve_model", counted)
    monkeypatch.setattr(operator_models, "resolve_model", counted)
    return roles


def test_a_model_is_resolved_once_and_only_if_it_is_needed(make: Make, resolved: list[str]) -> None:
    run = make({"captioner": "./none"})
    assert run.scorer is run.scorer and run.operator_models.model("watermark") is run.operator_models.model("watermark")
    assert resolved == ["clip", "watermark"]
    with pytest.raises(ConfigError, match=r"models\.captioner = './none'"):
        _ = run.captioner


def test_a_pickled_run_keeps_its_values_and_checks(make: Make, resolved: list[str]) -> None:
    run = make()
    scorer, watermark, seed = run.scorer, run.operator_models.model("watermark"), run.seed
    run.passed.add(_check)
    again: ResolvedRun = pickle.loads(pickle.dumps(run))
    assert (again.scorer, again.operator_models.model("watermark"), again.seed) == (scorer, watermark, seed)
    assert again.passed == {_check} and resolved == ["clip", "watermark"]


def _check(run: ResolvedRun) -> tuple[str, ...]:
    return ()


def test_another_gpu_section_changes_no_other_value(make: Make, resolved: list[str]) -> None:
    run = make()
    scorer, before = run.scorer, run.gpu
    other = run.with_gpu(Gpu(dtype="bfloat16"))
    assert other.gpu == other.settings.profile.gpu == Gpu(dtype="bfloat16") and run.gpu == before
    assert other.scorer is scorer and resolved == ["clip"]
    _ = other.base
    assert "base" not in vars(run)


def test_the_profile_without_a_pipeline_is_named(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"profile 'miniature' has none: set models\.diffusion"):
        _ = make(regenerate={}).diffusion
    with pytest.raises(ConfigError, match=r"models\.diffusion = './gone'"):
        _ = make({"diffusion": "./gone"}, regenerate={}).diffusion


def test_the_image_root_is_a_path_that_need_not_exist(make: Make, tmp_path: Path) -> None:
    assert make().image_root == tmp_path
    root = make(regenerate={}).image_root
    assert root == tmp_path / "data" / "miniature" / "test" / "image_root"
    assert not (tmp_path / "data").exists()
