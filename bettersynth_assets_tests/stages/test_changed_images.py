"""Image files that change, disappear or cannot be read: what is redone, what fails, and which faults blame no row."""

from __future__ import annotations

import ctypes
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.stages import image_folder
from bettersynth_assets.stages.image_folder import finetune_images_hash
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets_tests.helpers.rows import break_pixels
from bettersynth_assets_tests.helpers.seeds import encoded, kit_row, picture, settings_for, write_images, write_lines
from toolkit import file_errors
from toolkit.file_errors import EnvironmentFault

CAPTIONS = {"caption": {"max_new_tokens": 4}}
Make = Callable[..., Pipeline]


def rows_of(pipeline: Pipeline, stage: str, table: str = "kept") -> list[dict[str, object]]:
    return [row for manifest in pipeline.ensure_all(stage) for row in manifest.table(table).to_pylist()]


def replaced(path: Path, data: bytes) -> None:
    """Replace a file by other bytes of the same length and modification time, as ``cp -p`` may."""
    before = path.stat()
    assert len(data) == before.st_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
def test_a_folder_that_disappears_during_scoring_fails_the_shard_and_blames_no_row(
    pipeline: Make, seed_root: Path
) -> None:
    run = pipeline()
    run.ensure_all("seed_dataset")
    (seed_root / "images").rename(seed_root / "unmounted")
    with pytest.raises(EnvironmentFault, match=f"folder {seed_root}/images does not exist .*run again"):
        run.ensure("clip_scores", "shard-00000")
    assert run.current("clip_scores") == []
    (seed_root / "unmounted").rename(seed_root / "images")
    again = pipeline()
    assert len(rows_of(again, "clip_scores")) == 30 and rows_of(again, "clip_scores", "quarantine") == []


def test_a_damaged_file_repaired_with_equal_length_is_scored(pipeline: Make, seed_root: Path) -> None:
    path = seed_root / "images/007.png"
    whole = path.read_bytes()
    break_pixels(seed_root, "images/007.png")
    (row,) = rows_of(pipeline(), "clip_scores", "quarantine")
    assert (row["id"], row["reason"]) == ("row007", "decode_error")
    replaced(path, whole)
    again = pipeline()
    assert len(rows_of(again, "clip_scores")) == 30 and rows_of(again, "clip_scores", "quarantine") == []


@pytest.mark.slow
def test_a_replaced_image_gets_a_new_score_and_caption_and_other_shards_are_not_redone(
    pipeline: Make, seed_root: Path
) -> None:
    for number, colour in ((0, "red"), (1, "red")):
        Image.new("RGB", (60, 50), colour).save(seed_root / f"images/{number:03d}.png", "BMP")
    before = {row["id"]: row for row in rows_of(pipeline(**CAPTIONS), "recaptioned_set")}
    buffer = io.BytesIO()
    Image.new("RGB", (60, 50), "blue").save(buffer, "BMP")
    replaced(seed_root / "images/000.png", buffer.getvalue())
    again = pipeline(**CAPTIONS)
    after = {row["id"]: row for row in rows_of(again, "recaptioned_set")}
    changed = {"image_hash", "clip_score", "original_score", "synthetic_score", "synthetic_caption", "raw_caption"}
    assert after["row000"]["image_hash"] != before["row000"]["image_hash"]
    assert after["row000"]["original_score"] != before["row000"]["original_score"]
    for row_id, row in after.items():
        differing = {name for name, value in row.items() if value != before[row_id][name]}
        assert differing <= (changed | {"caption", "choice", "caption_flags", "stats"} if row_id == "row000" else set())
    assert {manifest.shard for manifest in again.materialized if manifest.stage == "clip_scores"} == {"shard-00000"}


def test_touched_images_are_only_read_again(pipeline: Make, seed_root: Path) -> None:
    pipeline().ensure_all("clip_scores")
    for path in (seed_root / "images").iterdir():
        os.utime(path)
    again = pipeline()
    again.ensure_all("clip_scores")
    assert {manifest.stage for manifest in again.materialized} == {"seed_dataset"}


def ingest(settings: Settings) -> Pipeline:
    return Pipeline([SEED_DATASET], ResolvedRun(settings), log=lambda line: None)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    write_images(tmp_path / "seed", range(10))
    return write_lines(tmp_path / "seed", [kit_row(number) for number in range(10)])


@pytest.mark.parametrize("as_mount_point", [False, True])
def test_a_folder_that_is_missing_at_ingest_fails_the_shard_until_it_is_restored(
    seed: Path, tmp_path: Path, as_mount_point: bool
) -> None:
    settings, folder = settings_for(seed, tmp_path / "data", shards=2), seed.parent / "images"
    folder.rename(seed.parent / "away")
    if as_mount_point:
        folder.mkdir()
    with pytest.raises(EnvironmentFault, match=rf"folder {folder} is missing or empty, and 10 of .* 10 rows"):
        ingest(settings).ensure("seed_dataset", "shard-00000")
    assert ingest(settings).current("seed_dataset") == []
    assert ingest(settings).up_to_date_shard("seed_dataset", "shard-00000") is None
    if as_mount_point:
        folder.rmdir()
    (seed.parent / "away").rename(folder)
    assert len(rows_of(ingest(settings), "seed_dataset")) == 10


def test_rows_with_a_misspelled_path_are_quarantined_with_the_existing_spelling(tmp_path: Path) -> None:
    write_images(tmp_path, range(10))
    (tmp_path / "images/a b.jpg").write_bytes(encoded(picture()))
    (tmp_path / "images/caf\u00e9.jpg").write_bytes(encoded(picture()))
    odd = ["nowhere/a.jpg", r"images\003.jpg", "images/a%20b.jpg", "images/cafe\u0301.jpg"]
    odd.append("data:image/png;base64," + "A" * 9000)
    lines = [kit_row(number) for number in range(20)]
    lines = [*lines[:10], *[kit_row(10 + at, images=[image]) for at, image in enumerate(odd)]]
    lines += [kit_row(50, images=["A" * 5000]), kit_row(51, images=[{"bytes": "A" * 5000, "path": None}])]
    limits = Limits(max_quarantined_share=0.5)
    settings = settings_for(write_lines(tmp_path, lines), tmp_path / "data", shards=1, limits=limits)
    found = {row["id"]: row for row in rows_of(ingest(settings), "seed_dataset", "quarantine")}
    reasons = [str(row["reason"]) for row in found.values()]
    assert reasons == [*["missing_image"] * 4, "url_refused", "missing_image", "missing_field"]
    details = [str(row["detail"]) for row in found.values()]
    assert "folder 'nowhere' does not exist" in details[0]
    assert "'images/003.jpg' exists (forward slashes)" in details[1]
    assert "'images/a b.jpg' exists (percent-decoded)" in details[2]
    assert "'images/caf\u00e9.jpg' exists (Unicode NFC)" in details[3]
    assert all(len(detail) <= 450 for detail in details) and "characters)" in details[6]


def test_a_shard_with_no_image_present_fails(tmp_path: Path) -> None:
    rows = [kit_row(number, images=[f"{number}.jpg"]) for number in range(4)]
    settings = settings_for(write_lines(tmp_path, rows), tmp_path / "data", shards=1)
    with pytest.raises(EnvironmentFault, match=f"none of the 4 images of this shard is under {tmp_path}"):
        ingest(settings).ensure("seed_dataset", "shard-00000")


@contextmanager
def without_rights() -> Iterator[None]:
    """Act as another user for file access, in this thread and threads that it starts; root may read everything."""
    libc = ctypes.CDLL(None)
    before = os.geteuid()
    try:
        if before == 0:
            libc.setfsuid(65534)
        yield
    finally:
        libc.setfsuid(before)


@pytest.mark.skipif(os.name != "posix" or not hasattr(ctypes.CDLL(None), "setfsuid"), reason="rights of Linux")
def test_a_folder_without_read_permission_is_not_reported_as_broken_images(
    seed: Path, tmp_path: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(file_errors, "_gave_up", {})
    settings = settings_for(seed, tmp_path / "data", shards=1)
    lines = list(range(10))
    for path in [tmp_path, *tmp_path.parents]:
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)
    (tmp_path / "data").mkdir(mode=0o777)
    (tmp_path / "data").chmod(0o777)
    (seed.parent / "images").chmod(0)
    try:
        with (
            without_rights(),
            pytest.raises(EnvironmentFault, match=r"Permission denied \(EACCES\): let this user read"),
        ):
            ingest(settings).ensure("seed_dataset", "shard-00000")
    finally:
        (seed.parent / "images").chmod(0o755)
    assert len(rows_of(ingest(settings), "seed_dataset")) == len(lines)


def test_links_are_followed_where_the_profile_allows_and_the_error_names_the_setting(tmp_path: Path) -> None:
    hub = tmp_path / "hub/datasets--org--name"
    (hub / "blobs").mkdir(parents=True)
    snapshot = hub / "snapshots/0123abcd"
    (snapshot / "images").mkdir(parents=True)
    for number in range(4):
        (hub / f"blobs/{number:064x}").write_bytes(encoded(picture(seed=number)))
        (snapshot / f"images/{number:03d}.jpg").symlink_to(f"../../../blobs/{number:064x}")
    again = snapshot / "images/002.jpg"
    again.unlink()
    again.symlink_to("003.jpg")  # a link to a link
    (tmp_path / "shared disk").mkdir()
    (tmp_path / "shared disk/9.jpg").write_bytes(encoded(picture(seed=9)))
    (snapshot / "more").symlink_to(tmp_path / "shared disk")
    rows = [*[kit_row(number) for number in range(4)], kit_row(9, images=["more/9.jpg"])]
    seed = write_lines(snapshot, rows)
    refused = rows_of(ingest(settings_for(seed, tmp_path / "data", shards=1)), "seed_dataset", "quarantine")
    assert {row["reason"] for row in refused} == {"path_escape"} and len(refused) == 5
    assert f"add {str(hub / 'blobs')!r} to `image_roots` in the profile" in str(refused[0]["detail"])
    assert f"add {str(tmp_path / 'shared disk')!r} to `image_roots` in the profile" in str(refused[4]["detail"])
    roots = [str(hub / "blobs"), str(tmp_path / "shared disk")]
    some = settings_for(seed, tmp_path / "data", shards=1, image_roots=roots[:1])
    assert [row["id"] for row in rows_of(ingest(some), "seed_dataset", "quarantine")] == ["009"]
    both = settings_for(seed, tmp_path / "data", shards=1, image_roots=roots)
    assert len(rows_of(ingest(both), "seed_dataset")) == 5


def test_a_replaced_fine_tuning_image_changes_the_hash_and_only_modified_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memo, folder = tmp_path / "sft.json", tmp_path / "memo/hashes.parquet", tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bmp").write_bytes(encoded(picture(seed=number), "BMP"))
    data.write_text(json.dumps([{"id": "t"}, *[{"id": str(at), "image": f"{at}.bmp"} for at in range(4)]]))
    first = finetune_images_hash(data, folder, memo)
    read = []
    original = image_folder.file_hash_at
    monkeypatch.setattr(image_folder, "file_hash_at", lambda path: read.append(path.name) or original(path))

    def again() -> str:
        image_folder._hash.cache_clear()
        return finetune_images_hash(data, folder, memo)

    assert again() == first and read == []
    os.utime(folder / "2.bmp")
    assert again() == first and read == ["2.bmp"]
    replaced(folder / "1.bmp", encoded(picture(seed=9), "BMP"))
    second = again()
    assert second != first and read == ["2.bmp", "1.bmp"]
    memo.write_bytes(b"damaged")
    assert again() == second
    (folder / "3.bmp").write_bytes(b"there now")
    assert again() != second
    data.write_text("no JSON")
    unreadable = again()
    assert unreadable not in (first, second) and again() == unreadable
