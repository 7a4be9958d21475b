"""The part of a library's version that is in keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.engine import libraries
from bettersynth_assets.engine.libraries import counted_part, key_versions
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.stages import recaption, regenerate, selection
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines


@pytest.mark.parametrize(
    ("library", "found", "counted"),
    [
        ("torch", "2.13.0+cpu", "2.13"),
        ("torch", "2.13.0", "2.13"),
        ("torch", "2.13.1+cu130", "2.13"),
        ("torch", "2.14.0+cpu", "2.14"),
        ("torch", "2.14.0.dev20261101+cu130", "2.14.0.dev20261101"),
        ("torch", "2.14.0rc1", "2.14.0rc1"),
        ("pillow", "12.0.1", "12.0"),
        ("transformers", "4.57.6", "4.57.6"),
        ("transformers", "4.57.6+local", "4.57.6"),
        ("py-data-juicer", "1.6.1", "1.6.1"),
        ("py-data-juicer", "1.6.1.post2", "1.6.1"),
        ("open_clip_torch", "strange version", "strange version"),
    ],
)
def test_keys_contain_only_the_relevant_part_of_a_version(library: str, found: str, counted: str) -> None:
    assert counted_part(library, found) == counted


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that other versions are installed, as on another machine."""
    found = {"torch": "2.13.0+cpu", "transformers": "4.57.6", "pillow": "12.0.0", **versions}
    libraries.installed_versions.cache_clear()
    monkeypatch.setattr(libraries, "version", lambda library: found.get(library, "1.0.0"))


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    write_images(tmp_path, range(4))
    return write_lines(tmp_path, [kit_row(number) for number in range(4)])


def test_a_data_root_copied_to_a_machine_with_another_build_is_up_to_date(
    seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(seed, tmp_path / "data", shards=2)
    made_again: dict[str, int] = {}
    changes: dict[str, dict[str, str]] = {
        "first": {},
        "build": {"torch": "2.13.1+cu130"},
        "patch": {"pillow": "12.0.3"},
        "minor": {"pillow": "12.1.0"},
    }
    for name, versions in changes.items():
        _installed(monkeypatch, **versions)
        pipeline = Pipeline(STAGES, ResolvedRun(settings))
        manifests = pipeline.ensure_all("seed_dataset")
        made_again[name] = len(pipeline.materialized)
    libraries.installed_versions.cache_clear()
    assert made_again == {"first": 2, "build": 0, "patch": 0, "minor": 2}
    assert manifests[0].libraries == {"pillow": "12.1.0"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.libraries], ids=lambda stage: stage.name)
def test_keys_change_with_the_release_of_a_library_and_not_with_its_build(
    stage: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = stage.libraries  # type: ignore[attr-defined]
    parts = []
    for torch, transformers, pillow in (
        ("2.13.0+cpu", "4.57.6", "12.0.0"),
        ("2.13.0+cu130", "4.57.6", "12.0.0"),
        ("2.14.0+cpu", "4.58.0", "12.1.0"),
    ):
        _installed(monkeypatch, torch=torch, transformers=transformers, pillow=pillow)
        parts.append(key_versions(names))
    libraries.installed_versions.cache_clear()
    assert parts[0] == parts[1] != parts[2]


def test_the_document_lists_every_stages_libraries() -> None:
    page = (PROJECT_ROOT / "docs" / "keys.md").read_text("utf-8")
    listed = {
        stage: set(re.findall(r"[\w-]{5,}", text))
        for names, text in re.findall(r"^\| (`\w+`.*?) \| (.*?) \|$", page, re.MULTILINE)
        for stage in re.findall(r"`(\w+)`", names)
    }
    for stage in STAGES:
        assert {*stage.libraries} <= listed.get(stage.name, set()), stage.name
    assert {*recaption.LIBRARIES, *regenerate.LIBRARIES} <= listed["recaptioned_set"]
    assert {*selection.LIBRARIES} <= listed["budgeted_set"]
