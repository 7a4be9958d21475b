"""The index of a whole seed file: shards, digests, bad lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bettersynth_assets.config.settings import load_settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.seed_file import SeedIndex, seed_index
from bettersynth_assets_tests.helpers.seeds import kit_row, settings_for, write_images, write_lines

SHARDS = 3


def index_of(seed: Path) -> SeedIndex:
    return seed_index(ResolvedRun(settings_for(seed, seed.parent / "data", shards=SHARDS)).seed)


def digests(seed: Path) -> list[str]:
    index = index_of(seed)
    return [index.digest(shard, SHARDS) for shard in range(SHARDS)]


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    write_images(tmp_path, range(9))
    return write_lines(tmp_path, [kit_row(number) for number in range(9)])


def test_every_line_is_in_exactly_one_shard_in_file_order(seed: Path) -> None:
    index = index_of(seed)
    shards = [[line.number for line in index.lines(shard, SHARDS)] for shard in range(SHARDS)]
    assert shards == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
    assert [line.raw for line in index.lines(0, 1)] == seed.read_bytes().splitlines()


def test_editing_a_line_changes_only_its_shard(seed: Path) -> None:
    before = digests(seed)
    lines = [kit_row(number) for number in range(9)]
    lines[4] = kit_row(4, "another caption")
    write_lines(seed.parent, [*lines])
    assert [old == new for old, new in zip(before, digests(seed), strict=True)] == [True, False, True]


def test_appending_a_line_changes_only_one_shard(seed: Path) -> None:
    before = digests(seed)
    with seed.open("a") as file:
        file.write(json.dumps(kit_row(9)) + "\n")
    assert [old == new for old, new in zip(before, digests(seed), strict=True)] == [False, True, True]


def test_replacing_an_image_changes_only_its_shard(seed: Path) -> None:
    before = digests(seed)
    image = seed.parent / "images/005.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert [old == new for old, new in zip(before, digests(seed), strict=True)] == [True, True, False]
    os.utime(image, ns=(1, 1))
    changed = digests(seed)
    image.unlink()
    assert digests(seed)[2] != changed[2]


def test_the_second_row_with_an_id_is_the_duplicate(tmp_path: Path) -> None:
    index = index_of(write_lines(tmp_path, [kit_row(1), kit_row(2), kit_row(1), *map(kit_row, range(3, 20))]))
    assert [(line.number, line.first) for line in index.lines(0, 1) if line.first] == [(3, 1)]
    assert index.bad == {"duplicate_id": [3]}


def test_too_many_bad_lines_stop_the_run_before_any_work_with_lines_and_shares_in_the_error(tmp_path: Path) -> None:
    bad = [b"not json", b"\xff\xff", b"[1]", b'{"id": "a", "id": "b"}', b'{"id": "c", "score": NaN}', b"{}"]
    good = [kit_row(number) for number in range(3)]
    with pytest.raises(SeedError) as error:
        index_of(write_lines(tmp_path, [*good, *bad, kit_row(0)]))
    words = str(error.value)
    assert "7 of 10 lines (70.0%)" in words
    assert "max_bad_line_share = 20.0%" in words
    for part in (
        "invalid_json 10.0% (lines 4)", "invalid_utf8 10.0% (lines 5)", "not_an_object 10.0% (lines 6)",
        "duplicate_key 10.0% (lines 7)", "nan 10.0% (lines 8)", "bad_id 10.0% (lines 9)",
        "duplicate_id 10.0% (lines 10)",
    ):  # fmt: skip
        assert part in words


def test_only_the_first_line_numbers_are_shown(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"\(lines 1, 2, 3, 4, 5, …\)"):
        index_of(write_lines(tmp_path, [b"{"] * 9))


def test_bad_lines_below_the_limit_do_not_stop_the_run(tmp_path: Path) -> None:
    index = index_of(write_lines(tmp_path, [b"{", *map(kit_row, range(9))]))
    assert (len(index), index.bad) == (10, {"invalid_json": [1]})


@pytest.mark.parametrize("lines", [[], [b"", b"  "]])
def test_a_seed_file_without_rows_is_refused(lines: list[bytes | dict[str, object]], tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="holds no rows"):
        index_of(write_lines(tmp_path, lines))


def test_a_truncated_json_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="not closed"):
        index_of(write_lines(tmp_path, [b'[{"id": "1"},', b'{"id": "2"}'], name="seed.json"))


def test_a_missing_seed_file_or_a_folder_in_its_place_gives_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"none\.jsonl does not exist: set BETTERSYNTH_SEED"):
        ResolvedRun(settings_for(tmp_path / "none.jsonl", tmp_path)).seed.checked_file()
    with pytest.raises(SeedError, match="is a folder: name the"):
        ResolvedRun(settings_for(tmp_path, tmp_path)).seed.checked_file()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(SeedError, match="is a pipe or a device"):
        ResolvedRun(settings_for(tmp_path / "pipe.jsonl", tmp_path)).seed.checked_file()


def test_the_image_root_is_the_folder_of_the_seed_file(seed: Path) -> None:
    assert ResolvedRun(settings_for(seed, seed.parent / "data")).image_root == seed.parent


def test_without_a_seed_file_the_image_root_is_the_miniature_world_which_is_not_generated(tmp_path: Path) -> None:
    settings = load_settings({"BETTERSYNTH_DATA": str(tmp_path)})
    run = ResolvedRun(settings)
    assert run.image_root == settings.world.seed_images
    with pytest.raises(SeedError, match="does not exist"):
        run.seed.checked_file()
    assert not settings.world.root.exists()
    write_lines(settings.world.seed_file.parent, [kit_row(0)], name=settings.world.seed_file.name)
    assert run.seed.checked_file() == settings.world.seed_file
