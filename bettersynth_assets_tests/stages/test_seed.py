"""seed_dataset on tiny real files: every fault next to valid rows."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets.engine.gate import GateError
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.schema import QUARANTINE, SEED
from bettersynth_assets.stages import seed as seed_stage
from bettersynth_assets.stages.budget import BASELINE_SET
from bettersynth_assets.stages.seed import SEED_DATASET
from bettersynth_assets_tests.helpers.seeds import encoded, kit_row, picture, settings_for, write_images, write_lines
from bettersynth_assets_tests.helpers.toy import all_rows, toy_pipeline

LENIENT = {"max_bad_line_share": 1.0}


def settings(path: Path, **changes: Any) -> Any:
    defaults = settings_for(path, path.parent / "data", shards=4)
    limits = defaults.profile.limits.model_copy(update={**LENIENT, **changes})
    return settings_for(path, path.parent / "data", shards=4, limits=limits)


def row_with_image(root: Path, number: int, name: str, data: bytes | None) -> dict[str, Any]:
    if data is not None:
        (root / name).write_bytes(data)
    return kit_row(number, images=[name])


@pytest.fixture
def faulty(tmp_path: Path) -> tuple[Path, dict[int, str]]:
    """A seed file in which every second line is valid, and the expected reasons for the others."""
    root = tmp_path / "seed"
    write_images(root, range(60))
    (root / "images/out.jpg").symlink_to("/etc/hostname")
    whole = encoded(picture())
    bad: list[tuple[bytes | dict[str, Any], str]] = [
        (row_with_image(root, 101, "images/cut.jpg", whole[:700]), "decode_error"),
        (row_with_image(root, 102, "images/empty.jpg", b""), "decode_error"),
        (row_with_image(root, 103, "images/tiny.png", encoded(picture(1, 1), "PNG")), "too_small"),
        (kit_row(104, images=["/etc/hostname"]), "path_escape"),
        (kit_row(105, images=["images/../../x.jpg"]), "path_escape"),
        (kit_row(106, images=["images/out.jpg"]), "path_escape"),
        (kit_row(107, images=["https://host/x.jpg"]), "url_refused"),
        (kit_row(108, images=["images/none.jpg"]), "missing_image"),
        (kit_row(109, text="no token", images=["images/001.jpg"]), "image_token_mismatch"),
        (kit_row(110, "of <image> a", images=["images/001.jpg"]), "reserved_token"),
        (kit_row(111, " ", images=["images/001.jpg"]), "empty_text"),
        (kit_row(0), "duplicate_id"),
        (b'{"id": "112", "id": "113"}', "duplicate_key"),
        (b'{"id": "114", "text": NaN}', "nan"),
        (b'{"id": "115", "text": "\xff"}', "invalid_utf8"),
        (b'{"id": "116"', "invalid_json"),
        (b"[116]", "not_an_object"),
        (b'{"text": "x"}', "missing_field"),
        (b"{}", "bad_id"),
    ]
    lines: list[bytes | dict[str, Any]] = []
    for number, (line, _) in enumerate(bad):
        lines += [kit_row(number), line]
    reasons = {2 * number + 2: reason for number, (_, reason) in enumerate(bad)}
    return write_lines(root, lines), reasons


def test_every_fault_is_quarantined_with_its_reason_and_its_neighbours_are_untouched(
    faulty: tuple[Path, dict[int, str]],
) -> None:
    path, reasons = faulty
    pipeline = toy_pipeline(settings(path))
    kept, quarantine = all_rows(pipeline, "seed_dataset"), all_rows(pipeline, "seed_dataset", "quarantine")
    assert dict(zip(quarantine["line"].to_pylist(), quarantine["reason"].to_pylist(), strict=True)) == reasons
    assert sorted(kept["line"].to_pylist()) == [2 * number + 1 for number in range(len(reasons))]
    for row in kept.to_pylist():
        number = int(row["id"])
        assert (row["line"], row["image"]) == (2 * number + 1, f"images/{number:03d}.jpg")
        assert row["caption"] == f"a picture of thing {number}"
        assert (row["width"], row["height"], row["mode"], row["format"]) == (40, 30, "RGB", "JPEG")
        assert row["words"] == 2 + 5
    assert kept.schema == SEED
    assert quarantine.schema == QUARANTINE
    assert all(quarantine["detail"].to_pylist())
    assert {manifest.lost for manifest in pipeline.ensure_all("seed_dataset")} == {0}


def test_with_the_default_limit_the_same_file_fails_before_any_shard_is_built(
    faulty: tuple[Path, dict[int, str]],
) -> None:
    path, _ = faulty
    # Seven lines cannot be parsed as rows; the other faults belong to rows and do not count as bad lines.
    strict = settings(path, max_bad_line_share=0.1)
    with pytest.raises(SeedError, match=r"7 of 38 lines \(18.4%\)"):
        toy_pipeline(strict).ensure_all("seed_dataset")
    assert not list(strict.data_root.rglob("*.parquet"))


@pytest.mark.parametrize("case", range(5))
def test_every_line_ends_in_exactly_one_table(case: int, tmp_path: Path) -> None:
    choose = random.Random(case)
    write_images(tmp_path, range(10))
    rows = choose.randint(1, 60)
    pieces = [b'{"id": "', b'"}', b"\xff\xfe", b"[", b"]", b",", b"<image>", b'"images": ', b"\\u0000", b"null", b"\r"]
    lines: list[bytes | dict[str, Any]] = [
        kit_row(choose.randrange(10), images=choose.choice([["images/001.jpg"], "images/002.jpg", [], None, "none"]))
        if choose.random() < 0.5
        else b"".join(choose.choices(pieces, k=choose.randint(1, 8)))
        for _ in range(rows)
    ]
    path = write_lines(tmp_path, [kit_row(0), *lines])
    held = [n for n, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    pipeline = toy_pipeline(settings(path))
    manifests = pipeline.ensure_all("seed_dataset")
    found = [
        line
        for table in ("kept", "quarantine")
        for line in all_rows(pipeline, "seed_dataset", table)["line"].to_pylist()
    ]
    assert sorted(found) == held
    assert sum(manifest.rows_in for manifest in manifests) == len(held)
    assert [manifest.lost for manifest in manifests] == [0] * 4


def test_flags_modes_and_rotated_sizes_are_recorded_and_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    exif = picture().getexif()
    exif[0x0112] = 6
    rows = [
        row_with_image(tmp_path, 0, "images/turned.jpg", encoded(picture(), exif=exif)),
        row_with_image(tmp_path, 1, "images/broken.jpg", encoded(picture(), exif=b"Exif\0\0nonsense")),
        row_with_image(tmp_path, 2, "images/grey.png", encoded(picture().convert("L"), "PNG")),
        row_with_image(tmp_path, 3, "images/cmyk.jpg", encoded(picture().convert("CMYK"))),
    ]
    pipeline = toy_pipeline(settings(write_lines(tmp_path, rows)))
    found = {row["id"]: row for row in all_rows(pipeline, "seed_dataset").to_pylist()}
    assert (found["000"]["width"], found["000"]["height"], found["000"]["flags"]) == (30, 40, ["exif_rotated"])
    assert found["001"]["flags"] == ["broken_exif"]
    assert [found[key]["mode"] for key in sorted(found)] == ["RGB", "RGB", "L", "CMYK"]
    modes: Counter[str] = Counter()
    for manifest in pipeline.ensure_all("seed_dataset"):
        modes.update(manifest.stats["modes"])
    assert modes == {"RGB": 2, "L": 1, "CMYK": 1}


def test_llava_json_and_kit_jsonl_of_the_same_rows_give_the_same_rows(tmp_path: Path) -> None:
    write_images(tmp_path, range(6))
    kit = [kit_row(number) for number in range(6)]
    llava = [
        {
            "id": row["id"],
            "image": row["images"][0],
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": f"a picture of thing {int(row['id'])}"},
            ],
        }
        for row in kit
    ]
    (tmp_path / "seed.json").write_text(json.dumps(llava, indent=2))
    write_lines(tmp_path, [*llava], name="llava.jsonl")
    write_lines(tmp_path, [*kit])
    tables = [
        all_rows(toy_pipeline(settings(tmp_path / name)), "seed_dataset")
        for name in ("seed.jsonl", "llava.jsonl", "seed.json")
    ]
    assert tables[0].num_rows == 6
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_a_second_run_is_a_no_op_and_a_fixed_image_reruns_only_its_shard(tmp_path: Path) -> None:
    write_images(tmp_path, range(8))
    broken = tmp_path / "images/002.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    path = write_lines(tmp_path, [kit_row(number) for number in range(8)])
    toy_pipeline(settings(path)).ensure_all("seed_dataset")
    again = toy_pipeline(settings(path))
    again.ensure_all("seed_dataset")
    assert again.materialized == []
    broken.write_bytes(whole)
    repaired = toy_pipeline(settings(path))
    repaired.ensure_all("seed_dataset")
    assert [(manifest.shard, manifest.kept) for manifest in repaired.materialized] == [("shard-00002", 2)]


@pytest.mark.slow
def test_worker_processes_give_the_same_rows_as_one_process(
    faulty: tuple[Path, dict[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, _ = faulty
    alone = [manifest.digest for manifest in toy_pipeline(settings(path)).ensure_all("seed_dataset")]
    monkeypatch.setattr(seed_stage, "POOL_ROWS", 0)
    limits = settings(path).profile.limits
    pooled = toy_pipeline(settings_for(path, tmp_path / "pooled", shards=4, limits=limits))
    assert [manifest.digest for manifest in pooled.ensure_all("seed_dataset")] == alone
    seed_stage._pool().shutdown()
    seed_stage._pool.cache_clear()


def test_no_stage_reads_a_seed_with_too_many_quarantined_rows(tmp_path):
    """The pipeline itself refuses: the check applies to the set, regardless of which stage reads it."""
    rows = [kit_row(number, images=[f"/elsewhere/{number}.jpg"]) for number in range(4)]
    write_images(tmp_path, range(4, 8))
    seed = write_lines(tmp_path, rows + [kit_row(number) for number in range(4, 8)])
    pipeline = Pipeline([SEED_DATASET, BASELINE_SET], ResolvedRun(settings_for(seed, tmp_path / "data")))
    with pytest.raises(GateError, match=r"seed_dataset fails its blocking check quarantine_share.*4 of 8 rows.*20.00%"):
        pipeline.ensure("baseline_set")
    assert sum(manifest.kept for manifest in pipeline.current("seed_dataset")) == 4
    assert pipeline.current("baseline_set") == []
