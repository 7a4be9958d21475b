"""Seed files in every supported format, and the archives and other files that are refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.errors import SeedError
from bettersynth_assets.records.seed_file import seed_index
from bettersynth_assets_tests.helpers.seeds import encoded, kit_row, picture, settings_for, write_images
from bettersynth_assets_tests.helpers.toy import all_rows, toy_pipeline
from toolkit.preprocess.check_sample_number import main as check_sample_number
from toolkit.preprocess.dj_to_llava import main as dj_to_llava

ROWS = 7
KIT = [kit_row(number) for number in range(ROWS)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in KIT)
ARRAY = json.dumps(KIT, indent=2).encode()
LLAVA = [
    {
        "id": row["id"],
        "image": row["images"][0],
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": f"a picture of thing {number}"},
        ],
    }
    for number, row in enumerate(KIT)
]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=3)
    return buffer.getvalue()


def joined() -> list[dict[str, Any]]:
    """Join rows of both layouts as a table library does: each row has the columns of both."""
    rows = [*KIT[:4], *LLAVA[4:]]
    return [
        {name: row.get(name) for name in ("id", "text", "images", "image", "conversations", "note")} for row in rows
    ]


def pandas_parquet() -> bytes:
    table = pandas.DataFrame([{**row, "id": number} for number, row in enumerate(KIT)])
    buffer = io.BytesIO()
    table[table["id"] >= 0].iloc[::-1].iloc[::-1].to_parquet(buffer)
    return buffer.getvalue()


def settings(path: Path, **profile: Any) -> Settings:
    return settings_for(path, path.parent / "data", shards=2, **profile)


READ = {
    "gzip": lambda: gzip.compress(LINES),
    "gzip of two members": lambda: gzip.compress(LINES[:300]) + gzip.compress(LINES[300:]),
    "gzip of an array": lambda: gzip.compress(ARRAY),
    "zstd": lambda: zstandard.compress(LINES),
    "zstd of two frames": lambda: zstandard.compress(LINES[:300]) + zstandard.compress(LINES[300:]),
    "array": lambda: ARRAY,
    "array with a mark": lambda: b"\xef\xbb\xbf" + ARRAY,
    "Parquet, kit": lambda: parquet(KIT),
    "Parquet, LLaVA": lambda: parquet(LLAVA),
    "Parquet, joined": lambda: parquet(joined()),
}


@pytest.mark.parametrize("make", READ.values(), ids=READ)
def test_every_supported_file_format_gives_the_same_set(make: Callable[[], bytes], tmp_path: Path) -> None:
    write_images(tmp_path, range(ROWS))
    path = tmp_path / "seed.jsonl"  # the format does not depend on the file name
    path.write_bytes(make())
    found = all_rows(toy_pipeline(settings(path)), "seed_dataset").sort_by("line").to_pylist()
    assert [(row["id"], row["caption"], row["image"], row["extra"]) for row in found] == [
        (f"{number:03d}", f"a picture of thing {number}", f"images/{number:03d}.jpg", None) for number in range(ROWS)
    ]
    assert [row["line"] for row in found] == list(range(1, ROWS + 1))


def test_integer_ids_and_a_data_frame_index_column_are_accepted(tmp_path: Path) -> None:
    write_images(tmp_path, range(ROWS))
    (tmp_path / "seed.parquet").write_bytes(pandas_parquet())
    found = all_rows(toy_pipeline(settings(tmp_path / "seed.parquet")), "seed_dataset").sort_by("line").to_pylist()
    assert [(row["id"], row["extra"]) for row in found] == [(str(number), None) for number in range(ROWS)]


def test_additional_parquet_columns_become_extra_fields(tmp_path: Path) -> None:
    write_images(tmp_path, range(2))
    rows = [
        {**KIT[0], "similarity": 0.25, "meta": {"site": "x", "rank": None}, "seen": pandas.Timestamp("2024-05-01")},
        {**KIT[1], "similarity": None, "meta": None, "seen": None},
    ]
    (tmp_path / "seed.parquet").write_bytes(parquet(rows))
    found = all_rows(toy_pipeline(settings(tmp_path / "seed.parquet")), "seed_dataset").sort_by("line").to_pylist()
    first = '{"meta": {"site": "x"}, "seen": "2024-05-01 00:00:00", "similarity": 0.25}'
    assert [row["extra"] for row in found] == [first, None]


def test_each_version_of_a_file_is_decoded_once_and_older_decoded_copies_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "seed.jsonl.gz"
    path.write_bytes(gzip.compress(LINES))
    (decoded,) = _decoded(path)
    assert decoded.read_bytes() == LINES
    written_at = decoded.stat().st_mtime_ns
    assert [item.stat().st_mtime_ns for item in _decoded(path)] == [written_at]
    path.write_bytes(gzip.compress(LINES[: LINES.index(b"\n") + 1]))
    (other,) = _decoded(path)
    assert other != decoded and other.read_bytes().count(b"\n") == 1
    other.unlink()  # a decoded copy that is missing is created again
    assert len(_decoded(path)) == 1


def _decoded(path: Path) -> list[Path]:
    seed = ResolvedRun(settings(path)).seed
    assert len(seed_index(seed))
    return list(seed.decoded.iterdir())


def tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(LINES)
            archive.addfile(member, io.BytesIO(LINES))
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, LINES)
    return buffer.getvalue()


def feather() -> bytes:
    buffer = io.BytesIO()
    pyarrow.feather.write_feather(pa.Table.from_pylist(KIT), buffer)
    return buffer.getvalue()


def numpy_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "UTF-16": (lambda: LINES.decode().encode("utf-16"), r"is UTF-16 text: convert it: `iconv -f UTF-16 -t UTF-8`"),
    "UTF-16 without a mark": (lambda: LINES.decode().encode("utf-16-be"), "is UTF-16 text"),
    "UTF-32": (lambda: LINES.decode().encode("utf-32"), "is UTF-32 text"),
    "tar": (lambda: tar("seed.jsonl"), "is a tar archive: unpack it"),
    "tar in gzip": (lambda: gzip.compress(tar("seed.jsonl")), ", decompressed from gzip, is a tar archive: unpack it"),
    "zip": (lambda: zipped("seed.jsonl"), "is a ZIP archive: unpack it"),
    "xlsx": (lambda: zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook: export the table"),
    "Feather": (feather, "is an Arrow IPC or Feather file: write the table as Parquet"),
    "CSV": (lambda: b"id,text,images\n1,a boat,1.jpg\n", r"is a table of separated values \(CSV\)"),
    "TSV": (lambda: b"image\ttext\n1.jpg\ta boat\n", r"is a table of separated values \(CSV\)"),
    "HTML": (lambda: b"\n<!DOCTYPE html>\n<html><title>404</title>", "is an HTML page, probably the error page"),
    "XML": (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "is an XML document"),
    "git-lfs": (lambda: POINTER, "is a git-lfs pointer and not the file itself: fetch the file: `git lfs pull`"),
    "pickle": (lambda: pickle.dumps(KIT), "is a Python pickle, which can run code and is never loaded"),
    "npy": (numpy_array, "is a NumPy array"),
    "bzip2": (lambda: b"BZh91AY&SY" + bytes(20), "is compressed with bzip2: decompress it"),
    "xz": (lambda: b"\xfd7zXZ\x00\x00\x04", "is compressed with xz: decompress it"),
    "zeros": (lambda: bytes(200), "is filled with zero bytes"),
    "image": (lambda: encoded(picture()), "is an image: give the path of the file with the rows"),
    "empty": (lambda: b"", "is empty and holds no rows"),
    "gzip of nothing": (lambda: gzip.compress(b""), "holds no rows"),
    "gzip cut off": (lambda: gzip.compress(LINES)[:-20], "is a truncated or damaged gzip file"),
    "gzip of two, cut off": (lambda: (gzip.compress(LINES) * 2)[:-20], "is a truncated or damaged gzip file"),
    "gzip damaged": (
        lambda: gzip.compress(LINES)[:60] + b"\0\0\0\0" + gzip.compress(LINES)[64:],
        "is a truncated or damaged gzip file",
    ),
    "zstd cut off": (lambda: zstandard.compress(LINES)[:-20], "is a truncated or damaged zstd file"),
    "gzip twice": (lambda: gzip.compress(gzip.compress(LINES)), "compressed twice"),
    "Parquet cut off": (lambda: parquet(KIT)[:-50], "is a truncated or damaged Parquet file"),
    "Parquet of other columns": (
        lambda: parquet([{"url": "http://x", "caption": "a boat"}]),
        "has the columns url, caption: rows need text and images",
    ),
    "Parquet with image bytes": (
        lambda: parquet([{"id": "1", "text": "<image> a", "image": {"bytes": b"\xff\xd8", "path": "1.jpg"}}]),
        "column 'image' holds image bytes .*: write each image to a file",
    ),
    "Parquet with other bytes": (
        lambda: parquet([{**KIT[0], "hash": b"\x00"}]), "column 'hash' holds bytes: remove the column",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "fault"), REFUSED.values(), ids=REFUSED)
def test_an_unsupported_file_gives_an_error_with_the_fix_before_any_work(
    make: Callable[[], bytes], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "seed.jsonl"
    path.write_bytes(make())
    with pytest.raises(SeedError, match=rf"seed file .*seed\.jsonl.*{fault}") as error:
        toy_pipeline(settings(path)).ensure_all("seed_dataset")
    assert "\n" not in str(error.value)
    assert not [item for item in (tmp_path / "data").rglob("*") if item.is_file() and item.stat().st_size]


@pytest.mark.parametrize("make", [tar, zipped])
def test_an_archive_is_refused_without_unpacking_regardless_of_member_names(
    make: Callable[..., bytes], tmp_path: Path
) -> None:
    inner = tmp_path / "in/ner"
    inner.mkdir(parents=True)
    path = inner / "seed.jsonl"
    path.write_bytes(make("../escaped.jsonl", str(tmp_path / "absolute.jsonl"), "seed.jsonl"))
    for data in (path.read_bytes(), gzip.compress(path.read_bytes())):
        path.write_bytes(data)
        with pytest.raises(SeedError, match="archive: unpack it and give the path of the file with the rows"):
            seed_index(ResolvedRun(settings(path)).seed)
    left = [item.name for item in tmp_path.rglob("*") if item.is_file() and "data" not in item.parts]
    assert left == ["seed.jsonl"]


def test_archives_and_web_pages_in_place_of_images_are_named_and_not_unpacked(tmp_path: Path) -> None:
    write_images(tmp_path, range(ROWS))
    named = ["images.tar", "images.zip", "page.jpg", "images.tar/001.jpg"]
    files = [tar("../escaped.jpg"), zipped("../escaped.jpg"), b"<html><body>404</body></html>"]
    for name, data in zip(named, files, strict=False):
        (tmp_path / name).write_bytes(data)
    rows = [*KIT, *(kit_row(100 + number, images=[name]) for number, name in enumerate(named))]
    path = tmp_path / "seed.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    found = all_rows(toy_pipeline(settings(path)), "seed_dataset", "quarantine").sort_by("line").to_pylist()
    assert [row["reason"] for row in found] == ["decode_error"] * 3 + ["missing_image"]
    wanted = ["it is a tar archive", "it is a ZIP archive", "it is an HTML page", "'images.tar' is a file: unpack it"]
    for row, words in zip(found, wanted, strict=True):
        assert words in row["detail"]
    assert not list(tmp_path.rglob("escaped*")) and not list(tmp_path.parent.glob("escaped*"))


def test_the_kits_commands_read_the_same_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, outputs = tmp_path / "seed.jsonl", []
    plain.write_bytes(LINES)
    for number, data in enumerate((LINES, gzip.compress(LINES), parquet(KIT), ARRAY)):
        source, llava, few = tmp_path / f"{number}.in", tmp_path / f"{number}.json", tmp_path / f"{number}.jsonl"
        source.write_bytes(data)
        assert dj_to_llava(["--input", str(source), "--output", str(llava)]) == 0
        assert check_sample_number(["--input", str(source), "--output", str(few), "--budget", "3"]) == 0
        rows = [json.loads(line) for line in few.read_bytes().splitlines()]
        outputs.append((json.loads(llava.read_bytes()), rows))
    assert outputs[0][1] and all(output == outputs[0] for output in outputs)
    questions = tmp_path / "questions.json.gz"
    questions.write_bytes(gzip.compress(json.dumps(LLAVA).encode()))
    more = ["--questions", str(questions), "--output", str(tmp_path / "asked.json")]
    assert dj_to_llava(["--input", str(plain), *more]) == 0
    assert json.loads((tmp_path / "asked.json").read_bytes()) == LLAVA
    capsys.readouterr()
    for command in (dj_to_llava, check_sample_number):
        (tmp_path / "0.in").write_bytes(tar("seed.jsonl"))
        with pytest.raises(SystemExit, match=r"^2$"):
            command(["--input", str(tmp_path / "0.in"), "--output", str(tmp_path / "out")])
        assert "0.in is a tar archive: unpack it" in capsys.readouterr().err
