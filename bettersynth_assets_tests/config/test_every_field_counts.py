"""Each field of a profile or recipe is part of a stage's key unless it is marked with the reason why not.

A new field fails here until it is part of a key, as it is in every section by default, or is marked.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from bettersynth_assets.config.profile import Profile
from bettersynth_assets.config.recipe import CaptionSection, Recipe
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.operators.limits import SCORES_FILE
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets.stages.recaption import caption_key
from toolkit.files import digest_of
from toolkit.models import ARCHITECTURES
from toolkit.registry import load_extensions
from toolkit.settings import SettingsModel, models_in, not_in_key
from toolkit.training.settings import PhaseSettings

RECIPE: dict[str, Any] = {
    "name": "mine",
    "process": [{"image_watermark_filter": {"prob_threshold": 0.5}}],
    "caption": {"refilter": [{"words_num_filter": {"min_num": 2}}], "sampling": {}},
    "regenerate": {},
    "budget": {"select": [{"words_num_filter": {"min_num": 1}}]},
}
OTHER: dict[str, Any] = {
    "profile.shards": 7,
    "profile.models.clip": "org/other",
    "profile.image_roots": ["roots"],
    "profile.training.seeds": [5],
    "profile.training.stage_1.loss_group": 1,
    "profile.training.stage_2.loss_group": 1,
    "profile.gpu.devices": [1],
    "recipe.process": [],
    "recipe.order": "planned",
    "recipe.caption.refilter": [],
    "recipe.caption.sampling": None,
    "recipe.caption": None,
    "recipe.caption.low_score": 0.3,
    "recipe.regenerate.below": 0.3,
    "recipe.regenerate": None,
    "recipe.regenerate.side": 64,
    "recipe.budget.select": [],
    "recipe.budget.exposures": 3,
}
"""A value to change to, where none can be made from the field's type."""


def fields(model: type[BaseModel], path: str) -> Iterator[tuple[type[BaseModel], str, str]]:
    """Yield class, name and path of every field of a settings class and of its sections."""
    for name, field in model.model_fields.items():
        yield model, name, f"{path}.{name}"
        for section in models_in(field.annotation):
            yield from fields(section, f"{path}.{name}")


FIELDS = [*fields(Profile, "profile"), *fields(Recipe, "recipe")]


def is_section(model: type[BaseModel], name: str) -> bool:
    """Whether a field holds a settings class, whose fields are tested separately."""
    annotation = model.model_fields[name].annotation
    return isinstance(annotation, type) and any(models_in(annotation))


CASES = [case for case in FIELDS if not is_section(*case[:2]) or not_in_key(*case[:2]) is not None]


def another(model: type[BaseModel], name: str, path: str, value: Any) -> Any:
    """Return a value of the field's type that differs from ``value``."""
    if path in OTHER:
        return OTHER[path]
    annotation = model.model_fields[name].annotation
    kinds = [annotation, *get_args(annotation)]
    literals = [choice for kind in kinds for choice in get_args(kind) if isinstance(choice, str)]
    if literals and value not in (None, *literals[1:]):
        return next(choice for choice in literals if choice != value)
    if isinstance(value, bool) or bool in kinds:
        return not value
    if isinstance(value, int) or int in kinds:
        return (value or 1) + 1
    if isinstance(value, float) or float in kinds:
        return 0.5 if value in (None, 0) else value / 2
    if isinstance(value, str) or str in kinds:
        return f"{value or 'org'}-other"
    if get_origin(annotation) in (list, tuple):
        return ["other"]
    raise AssertionError(f"{path}: put a value to change to in OTHER, or mark the field as not counting")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every-field")


@pytest.fixture(scope="module")
def complete(folder: Path) -> Iterator[dict[str, Any]]:
    """Plain values of a profile and a recipe that have every section."""
    with pytest.MonkeyPatch.context() as patch:
        yield _complete(folder, patch)


@pytest.fixture
def base(complete: dict[str, Any]) -> dict[str, Any]:
    """A copy of them that a test may change."""
    return copy.deepcopy(complete)


@pytest.fixture(scope="module")
def before(complete: dict[str, Any], folder: Path) -> dict[str, str]:
    """The keys of the unchanged values."""
    return keys(complete, folder)


def _complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "seed.jsonl").write_text(json.dumps({"id": "a", "text": "a dog", "images": ["a.jpg"]}) + "\n")
    for name in ("tune.json", "table.tsv"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "roots").mkdir()
    scores = pa.table({"id": ["a"], "clip_score": pa.array([0.2], pa.float32())})
    pq.write_table(scores, tmp_path / SCORES_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bettersynth_assets.stages.training_plan.finetune_images_hash", lambda *_: "")
    monkeypatch.setattr("bettersynth_assets.stages.evaluate.benchmarks_key", lambda settings: {})
    stage = {"global_batch": 16, "per_device_batch": 2, "learning_rate": 0.001}
    training = {"seeds": [0], "stage_1": stage, "stage_2": stage, "finetune_json": str(tmp_path / "tune.json")}
    models = dict.fromkeys(("clip", "watermark", "captioner", "base", "diffusion"), "none/none")
    profile = {
        "name": "mine", "seed": str(tmp_path / "seed.jsonl"), "shards": 3, "budget": 7, "models": models,
        "training": {**training, "finetune_images": str(tmp_path)},
    }  # fmt: skip
    return {"profile": Profile.parse(profile).model_dump(), "recipe": Recipe.parse(RECIPE).model_dump()}


def keys(values: dict[str, Any], root: Path) -> dict[str, str]:
    """Return each stage's key: a digest of what it depends on besides its inputs."""
    settings = Settings(profile=Profile.parse(values["profile"]), recipe=Recipe.parse(values["recipe"]), data_root=root)
    manifest = SimpleNamespace(stats={"clip_score": {"mean": 0.2}, "order": [0]}, file=lambda name: root / name)
    inputs: Any = {stage.name: [manifest] for stage in STAGES}
    found = {}
    for stage in STAGES:
        shard = settings.profile.shard_names()[0] if stage.sharded else "all"
        found[stage.name] = digest_of(
            stage.depends(ResolvedRun(settings), shard, inputs), stage.additional_inputs(ResolvedRun(settings))
        )
    return found | {
        "shards": digest_of(settings.profile.shard_names()),
        "seeds": digest_of(settings.profile.training.seeds),
    }


@pytest.mark.parametrize(("model", "name", "path"), CASES, ids=[path for _, _, path in CASES])
def test_a_field_is_part_of_a_key_or_gives_the_reason_why_not(
    base: dict[str, Any], before: dict[str, str], folder: Path, model: type[BaseModel], name: str, path: str
) -> None:
    reason = not_in_key(model, name)
    if reason is not None:
        assert len(reason) > 10
        return
    *sections, last = path.split(".")
    place = base
    for section in sections:
        place = place[section]
    place[last] = another(model, name, path, place[last])
    changed = [stage for stage, key in keys(base, folder).items() if key != before[stage]]
    assert changed, f"{path} is part of no key: use it in a stage's depends, or mark it with NotInKey and the reason"


def test_a_new_caption_field_is_part_of_the_key_if_it_differs_from_its_default(
    base: dict[str, Any],
) -> None:
    class Newer(CaptionSection):
        style: str = "plain"

    settings = Settings(profile=Profile.parse(base["profile"]), recipe=Recipe.parse(base["recipe"]), data_root=Path())
    plain = caption_key(ResolvedRun(settings), CaptionSection())
    assert caption_key(ResolvedRun(settings), Newer()) == plain
    assert caption_key(ResolvedRun(settings), Newer(style="vivid")) != plain
    assert caption_key(ResolvedRun(settings), Newer(captioner="llava", policy="best_of")) == plain


def test_a_new_field_of_a_training_stage_is_part_of_the_key_if_it_differs_from_its_default(
    base: dict[str, Any],
) -> None:
    class Newer(PhaseSettings):
        label_smoothing: float = 0.0

    values = {"global_batch": 16, "per_device_batch": 2, "learning_rate": 0.001}
    plain = PhaseSettings.parse(values)
    assert Newer.parse(values).key() == plain.key()
    assert Newer.parse({**values, "label_smoothing": 0.1}).key() == {**plain.key(), "label_smoothing": 0.1}


def test_the_code_of_an_external_architecture_is_part_of_keys(
    base: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"model-of-{tmp_path.name}"
    code = f"from toolkit.models import ARCHITECTURES\nARCHITECTURES.register({name!r}, lambda: None)\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": name}))
    base["profile"]["models"]["base"] = str(tmp_path / "model")
    found = []
    for file, more in (("own.py", ""), ("changed.py", "# changed\n")):
        (tmp_path / file).write_text(code + more)
        monkeypatch.setattr(ARCHITECTURES, "_added", {})
        load_extensions([tmp_path / file])
        found.append(keys(base, folder))
    changed = {stage for stage, key in found[1].items() if key != found[0][stage]}
    assert {"mgm_checkpoint", "baseline_checkpoint", "eval_results", "baseline_results"} == changed


def test_every_section_is_a_settings_class() -> None:
    assert {model for model, _, _ in FIELDS if not issubclass(model, SettingsModel)} == set()
