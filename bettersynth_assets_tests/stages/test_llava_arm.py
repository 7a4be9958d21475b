"""LLaVA bases in the training and evaluation stages: ours in this process, an external one in real child processes."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from safetensors import safe_open

from bettersynth_assets.config.model import PACKAGE_ROOT
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Work
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages import evaluate, train
from bettersynth_assets_tests.helpers.budgeted import budgeted
from bettersynth_assets_tests.helpers.linear_llava import make_linear_base, write_extension
from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.without_child import run_here
from toolkit.model_files import first_damaged
from toolkit.models import ARCHITECTURES

LLAVA = PACKAGE_ROOT / "bettersynth_assets/miniature/weights/llava"
PROFILE = """
extends: llava-miniature
seed: SEED
training:
  seeds: [3]
  finetune_json: DATA
  finetune_images: IMAGES
  stage_1: {global_batch: 4, per_device_batch: 4, loss_group: 4, max_steps: 2}
  stage_2: {global_batch: 4, per_device_batch: 4, loss_group: 4, max_steps: 2}
evaluation: {batch: 8, benchmarks: {mme: null, pope: null, gqa: null, textvqa: null, mmbench: {table: TABLE}}}
"""


@pytest.fixture
def profile_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the miniature's LLaVA profile with a few rows and one question."""
    data = write_rows(tmp_path, pictures=4, text_only=2)
    shutil.copytree(tmp_path / "images", tmp_path / "budgeted" / "images")
    shutil.copy(data, tmp_path / "budgeted" / "llava.json")
    (tmp_path / "images" / "seed.jsonl").touch()
    encoded_image = base64.b64encode((tmp_path / "images" / "0.png").read_bytes()).decode()
    table = f"index\tquestion\tA\tB\tanswer\timage\n7\tWhich?\tred\tblue\tA\t{encoded_image}\n"
    (tmp_path / "m.tsv").write_text(table)
    text = PROFILE
    for name, value in (
        ("SEED", tmp_path / "images" / "seed.jsonl"), ("DATA", data), ("IMAGES", tmp_path / "images"),
        ("TABLE", tmp_path / "m.tsv"),
    ):  # fmt: skip
        text = text.replace(name, json.dumps(str(value)))
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(tmp_path / "p.yaml"))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
    return text


@pytest.fixture
def settings(profile_text: str, tmp_path: Path) -> Settings:
    (tmp_path / "p.yaml").write_text(profile_text)
    return load_settings()


@pytest.fixture
def settings_with_linear(profile_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same settings with a base of the architecture in docs/extending.md, whose file the profile names."""
    monkeypatch.setattr(ARCHITECTURES, "_added", {})
    base = make_linear_base(LLAVA, tmp_path / "base", widths=(128, 128))
    added = {"extensions": [str(write_extension(tmp_path / "linear.py"))], "models": {"base": str(base)}}
    (tmp_path / "p.yaml").write_text(profile_text + yaml.safe_dump(added))
    return load_settings()


def _train_and_answer(settings: Settings, tmp_path: Path) -> list[dict[str, Any]]:
    """Train into ``trained`` and answer into ``answered``; return the rows of the results."""
    for folder in ("trained", "answered"):
        (tmp_path / folder).mkdir()
    inputs = {"budgeted_set": [budgeted(tmp_path / "budgeted" / "llava.json", tmp_path / "budgeted" / "images")]}
    work = Work(
        run=ResolvedRun(settings), shard="all", folder=tmp_path / "trained", inputs=inputs, log=lambda line: None
    )
    trained = train.run(work, source="budgeted_set")
    assert [row["steps"] for row in trained.kept.to_pylist()] == [4]
    assert "seed-3/finetune/chat_template.jinja" in trained.other_files
    checkpoints = SimpleNamespace(verify=lambda: None, path=tmp_path / "trained", table=lambda: trained.kept)
    return evaluate.answer(
        replace(work, folder=tmp_path / "answered", inputs={"mgm_checkpoint": [cast(Any, checkpoints)]}),
        "mgm_checkpoint",
    )


def _model_type(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / "config.json").read_text())["model_type"])


@pytest.mark.slow
def test_a_llava_is_trained_and_evaluated_by_the_same_stages(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in (train, evaluate):
        monkeypatch.setattr(stage, "run_child", run_here)
    rows = _train_and_answer(settings, tmp_path)
    assert _model_type(tmp_path / "trained/seed-3/finetune") == "llava"
    accuracy = next(row for row in rows if row["benchmark"] == "mmbench")
    assert accuracy["seed"] == 3 and accuracy["n"] == 1
    question = json.loads((tmp_path / "answered/seed-3/mmbench/questions.jsonl").read_text())
    assert set(question["options"]) == {"A", "B"} and all(value < 0 for value in question["options"].values())


@pytest.mark.e2e
def test_an_architecture_of_a_profiles_extensions_is_trained_and_evaluated_by_the_same_stages(
    settings_with_linear: Settings, tmp_path: Path
) -> None:
    rows = _train_and_answer(settings_with_linear, tmp_path)
    checkpoint = tmp_path / "trained/seed-3/finetune"
    assert _model_type(checkpoint) == "linear_llava"
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        projector = sorted(name for name in file.keys() if "multi_modal_projector" in name)  # noqa: SIM118
    assert [name.rsplit(".", 1)[1] for name in projector] == ["bias", "weight"]
    assert next(row["n"] for row in rows if row["benchmark"] == "mmbench") == 1


def test_the_code_of_an_external_architecture_is_part_of_both_keys(
    settings_with_linear: Settings, tmp_path: Path
) -> None:
    digest = hashlib.sha256((tmp_path / "linear.py").read_bytes()).hexdigest()
    for stage in (train, evaluate):
        key = cast(dict[str, Any], stage.depends(ResolvedRun(settings_with_linear), "all", {}))
        assert key["architecture"] == digest


def test_a_base_without_a_registered_architecture_is_refused_when_keys_are_computed(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "blip-2"}')
    models = settings.profile.models.model_copy(update={"base": str(tmp_path / "other")})
    changed = replace(settings, profile=settings.profile.model_copy(update={"models": models}))
    with pytest.raises(ConfigError, match=r"models\.base: .*'blip-2'.*use one of llava, mgm_gemma"):
        train.depends(ResolvedRun(changed), "all", {})


def test_the_shipped_profiles_name_a_llava_base() -> None:
    assert load_profile("llava-miniature").models.base == LLAVA.relative_to(PACKAGE_ROOT).as_posix()
    assert first_damaged(LLAVA) is None
    full = load_profile("llava-0.5b").training
    assert (full.stage_1.deepspeed, full.stage_1.global_batch, full.stage_2.global_batch) == (None, 256, 128)
