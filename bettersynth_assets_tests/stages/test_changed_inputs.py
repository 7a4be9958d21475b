"""If the seed or questions file changes during a run, the run fails with that reason and no set mixes versions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.seed_file import seed_index
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import all_rows, toy_pipeline

ROWS = 8
TURNS = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "x"}]


def changed_seed(seed: Path) -> None:
    write_lines(seed.parent, [kit_row(number, "other") for number in range(ROWS)])


def replaced_seed(seed: Path) -> None:
    """Replace the file by another one of the same name, size and modification time."""
    before = seed.stat()
    other = seed.with_name("other.jsonl")
    other.write_bytes(seed.read_bytes().replace(b"thing", b"other"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(seed)


def cut_seed(seed: Path) -> None:
    os.truncate(seed, 100)


def removed_seed(seed: Path) -> None:
    seed.rename(seed.with_name("gone.jsonl"))


def new_questions(seed: Path) -> None:
    seed.with_name("stage_1.json").write_text(json.dumps([{"id": "000", "conversations": TURNS}]))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_images(tmp_path, range(ROWS))
    seed = write_lines(tmp_path, [kit_row(number) for number in range(ROWS)])
    return settings_for(seed, tmp_path / "data", shards=4, budget=ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["seed_dataset", "clip_scores", "recaptioned_set"])
@pytest.mark.parametrize("change", [changed_seed, replaced_seed, cut_seed, removed_seed, new_questions])
def test_a_file_that_changes_between_two_shards_fails_the_run_with_the_fix(
    change: Callable[[Path], None], stage: str, settings: Settings
) -> None:
    seed = Path(str(settings.profile.seed))

    def change_seed(manifest: Manifest) -> None:
        if (manifest.stage, manifest.shard) == (stage, "shard-00001"):
            change(seed)

    pipeline = toy_pipeline(settings)
    pipeline.on_materialized = change_seed
    with pytest.raises(SeedError, match=r"changed during this run.*run again|does not exist"):
        pipeline.ensure("budgeted_set")
    assert toy_pipeline(settings).slot("budgeted_set", "all").committed() is None
    if change in (changed_seed, replaced_seed):
        again = all_rows(toy_pipeline(settings), "seed_dataset")
        assert again.num_rows == ROWS
        assert not [caption for caption in again["caption"].to_pylist() if "thing" in caption]


def test_rows_read_from_another_version_than_that_of_the_key_are_never_committed(settings: Settings) -> None:
    seed = Path(str(settings.profile.seed))
    pipeline, before = toy_pipeline(settings), seed.read_bytes()
    stage = pipeline.stages["seed_dataset"]

    def run(work: Work) -> Result:
        changed_seed(seed)
        return stage.run(work)

    pipeline.stages["seed_dataset"] = replace(stage, run=run)
    with pytest.raises(SeedError, match="run again"):
        pipeline.ensure("seed_dataset", "shard-00000")
    seed.write_bytes(before)
    found = toy_pipeline(settings).ensure("seed_dataset", "shard-00000").table()
    assert all("thing" in caption for caption in found["caption"].to_pylist())


def test_truncating_a_file_while_its_rows_are_read_is_detected_and_kills_no_process(settings: Settings) -> None:
    index = seed_index(ResolvedRun(settings).seed)
    lines = index.lines(0, 1)
    next(lines)
    cut_seed(Path(str(settings.profile.seed)))
    with pytest.raises(SeedError, match="has changed while it was read: run again"):
        list(lines)
