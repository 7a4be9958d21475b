"""Damaged stored files are found at the next check, named, never used, and rebuilt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bettersynth_assets.engine.integrity import DamagedFileError
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets_tests.helpers.killed_storage import run, settings_of, snapshot, stages
from toolkit import files


class Root:
    """A data root in which three small sets are up to date."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, settings_of(folder)
        run(folder, 1, self.settings)
        self.whole = snapshot(folder)

    def file(self, name: str) -> Path:
        (found,) = self.folder.rglob(name)
        return found

    def pipeline(self, version: int = 1) -> tuple[Pipeline, list[str]]:
        """Return a pipeline as in a new process, and its log."""
        files._sha256_of_state.cache_clear()
        log: list[str] = []
        return Pipeline(stages(version), ResolvedRun(self.settings), log=log.append), log

    def healed(self) -> tuple[list[str], list[str]]:
        """Run again; return the names of the rebuilt sets, and the log."""
        pipeline, log = self.pipeline()
        pipeline.ensure("trained")
        assert snapshot(self.folder) == self.whole
        return [manifest.stage for manifest in pipeline.materialized], log


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def drop_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 1), path)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace("[1, 2, 3]", "[1, 2, 4]"))


def lie(path: Path) -> None:
    path.write_text(path.read_text().replace('"rows_in": 4', '"rows_in": 3'))


NUMBERS, CAPTIONED, TRAINED = (f"{name}/*/v-*/" for name in ("numbers", "captioned", "trained"))


@pytest.mark.parametrize(
    ("name", "damage", "rebuilt"),
    [
        (f"{NUMBERS}kept.parquet", flip, "numbers"),
        (f"{NUMBERS}kept.parquet", drop_rows, "numbers"),
        (f"{NUMBERS}kept.parquet", halve, "numbers"),
        (f"{NUMBERS}rejects.parquet", Path.unlink, "numbers"),
        (f"{CAPTIONED}lines.txt", edit, "captioned"),
        (f"{CAPTIONED}lines.txt", flip, "captioned"),
        (f"{TRAINED}seed-1/weights.bin", halve, "trained"),
        (f"{TRAINED}seed-1/weights.bin", flip, "trained"),
        (f"{TRAINED}seed-2/done.json", flip, "trained"),
        ("numbers/*/manifest.json", lie, "numbers"),
        ("numbers/*/manifest.json", halve, "numbers"),
        ("numbers/*/manifest.json", lambda path: path.write_bytes(b""), "numbers"),
        ("numbers/*/manifest.json", lambda path: path.write_text("[1, 2]"), "numbers"),
        ("numbers/*/manifest.json", lambda path: path.write_text('{"rows_in": "four"}'), "numbers"),
        ("numbers/*/manifest.json", lambda path: path.write_bytes(b"\xff\xfe\x00"), "numbers"),
    ],
)
def test_a_damaged_file_is_named_and_only_its_shard_is_rebuilt(
    root: Root, name: str, damage: Callable[[Path], object], rebuilt: str
) -> None:
    path = root.file(name)
    damage(path)
    pipeline, _ = root.pipeline()
    assert pipeline.up_to_date_shard("trained") is None
    rebuilt_sets, log = root.healed()
    assert rebuilt_sets == [rebuilt]
    assert [line for line in log if str(path) in line and "is rebuilt" in line]
    assert root.healed() == ([], [])


def test_a_folder_in_place_of_a_manifest_is_renamed_and_not_deleted(root: Root) -> None:
    path = root.file("numbers/*/manifest.json")
    path.unlink()
    path.mkdir()
    (path / "of-a-user.txt").write_text("kept")
    pipeline, log = root.pipeline()
    pipeline.ensure("trained")
    assert any("is a folder" in line for line in log)
    assert path.with_name("manifest.json.aside-1").joinpath("of-a-user.txt").read_text() == "kept"
    assert root.pipeline()[0].up_to_date_shard("trained") is not None


def test_no_flipped_bit_changes_values_unnoticed(root: Root) -> None:
    rng = random.Random(0)
    names = (
        f"{NUMBERS}kept.parquet",
        "numbers/*/manifest.json",
        f"{CAPTIONED}lines.txt",
        f"{TRAINED}seed-1/weights.bin",
    )
    before = root.pipeline()[0].up_to_date_shard("trained")
    for path in map(root.file, names):
        content = path.read_bytes()
        for _ in range(40):
            place, bit = rng.randrange(len(content)), rng.randrange(8)
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            found = root.pipeline()[0].up_to_date_shard("trained")
            # A flip between two values of a manifest may leave the values as they are.
            assert found is None or (path.name == "manifest.json" and found == before)
        path.write_bytes(content)
    assert root.pipeline()[0].up_to_date_shard("trained") == before


def test_a_file_damaged_after_the_check_is_refused_when_it_is_read(root: Root) -> None:
    manifest = root.pipeline()[0].ensure("captioned", "shard-00000")
    flip(manifest.path / "kept.parquet")
    files._sha256_of_state.cache_clear()
    with pytest.raises(DamagedFileError, match=r"kept\.parquet has changed .* materialize captioned again"):
        manifest.table()
    assert manifest.file("lines.txt").is_file()
    with pytest.raises(DamagedFileError, match=r"captioned shard-00000: .*kept\.parquet"):
        manifest.verify()


def test_a_memo_is_verified_before_it_is_reused(root: Root) -> None:
    root.file("captioned/*/manifest.json").unlink()
    memo = root.file("captioned/*/captions-*.parquet")
    changed = memo.stat().st_mtime_ns
    assert root.healed()[0] == ["captioned"]
    assert memo.stat().st_mtime_ns == changed  # used again
    root.file("captioned/*/manifest.json").unlink()
    pq.write_table(pa.table({"caption": ["x", "y", "z"]}), memo)
    rebuilt_sets, log = root.healed()
    assert rebuilt_sets == ["captioned"]
    assert any(memo.name in line and "is rebuilt" in line for line in log)


def test_a_file_is_hashed_once_in_a_process(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    whole = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or whole(path))
    pipeline, _ = root.pipeline()
    for _ in range(2):
        pipeline.ensure("trained").verify()
        Pipeline(stages(1), ResolvedRun(root.settings)).ensure("trained").table()
    assert len(hashed) == len(set(hashed)) == 3 * 3 + 1 + 4


def test_a_manifest_of_an_earlier_format_is_rebuilt_with_the_reason_in_the_log(root: Root) -> None:
    path = root.file("numbers/*/manifest.json")
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in values.items() if key not in ("sha256", "format", "memos")})
    )
    rebuilt_sets, log = root.healed()
    assert rebuilt_sets == ["numbers"]
    assert any("has no checksum: an earlier version of this project wrote it" in line for line in log)
