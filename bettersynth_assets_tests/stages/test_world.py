"""The miniature world is generated at the start of a run if a set that the run reads needs files that none names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.defs.materialize import prepare_inputs
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.miniature import generate
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.small_world import FEWEST


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that name only a seed file."""
    monkeypatch.setattr(generate, "generate_world", partial(generate.generate_world, sizes=FEWEST, workers=1))
    (tmp_path / "seed.jsonl").touch()
    return with_profile(
        load_settings({"BETTERSYNTH_DATA": str(tmp_path), "BETTERSYNTH_SEED": str(tmp_path / "seed.jsonl")}),
        world_rows=50,
    )


def with_profile(settings: Settings, **values: Any) -> Settings:
    return replace(settings, profile=settings.profile.model_copy(update=values))


def prepare(settings: Settings, name: str) -> bool:
    """Prepare a run of one set; return whether the world exists afterwards."""
    prepare_inputs(name, STAGES, {name}, ResolvedRun(settings))
    return settings.world.root.exists()


def test_a_seed_file_is_generated_if_none_is_named(settings: Settings) -> None:
    unnamed = with_profile(settings, seed=None)
    assert not prepare(settings, "budgeted_set")
    assert prepare(unnamed, "budgeted_set")
    assert len(settings.world.seed_file.read_bytes().splitlines()) == 50


def test_indirect_inputs_of_a_set_are_included(settings: Settings) -> None:
    assert prepare(settings, "eval_results")  # it reads mgm_checkpoint, whose fine-tuning set is not named


def test_named_files_are_used(settings: Settings) -> None:
    training = settings.profile.training.model_copy(update={"finetune_json": "f.json", "finetune_images": "images"})
    named = {"mmbench": {"table": "m.tsv"}}
    evaluation = settings.profile.evaluation.model_copy(update={"benchmarks": named})
    given = with_profile(settings, training=training, evaluation=evaluation)
    assert not prepare(given, "eval_results")
    unnamed = settings.profile.evaluation.model_copy(update={"benchmarks": {**named, "gqa": {}}})
    assert prepare(with_profile(given, evaluation=unnamed), "eval_results")
