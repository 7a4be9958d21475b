"""Unusable rows and image files of a training set are found and named before the first step."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan, stage_of
from toolkit.data.conversation import LabelError
from toolkit.data.image_files import check_images, missing_files
from toolkit.data.llava import DataError, read_llava
from toolkit.file_errors import PATIENCE_VARIABLE, EnvironmentFault
from toolkit.images.reading import read_image
from toolkit.training.run import main

HUMAN = {"from": "human", "value": "<image>\nWhat is this?"}
GPT = {"from": "gpt", "value": "a cat"}
GOOD: dict[str, Any] = {"id": "good", "image": "0.png", "conversations": [HUMAN, GPT]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": [HUMAN, {"from": "gpt", "value": None}]}, r"\[1\]: 'value' must be text, not null"),
        ({"conversations": [{"from": "human", "value": 5}, GPT]}, r"conversations\[0\]: 'value' must be text, not 5"),
        ({"conversations": [HUMAN, {"from": "gpt"}]}, r"conversations\[1\]: 'value' must be text, not null"),
        ({"conversations": [{"value": "<image>"}, GPT]}, r"conversations\[0\]: 'from' must be human or gpt, not null"),
        ({"conversations": [HUMAN, ["gpt", "a"]]}, r"conversations\[1\] must be an object .*, not \[\"gpt\", \"a\"\]"),
        ({"conversations": None}, "'conversations' must be a list of .*, not null"),
        ({"conversations": []}, r"'conversations' must be a list of .*, not \[\]"),
        ({"conversations": "hello"}, "'conversations' must be a list of .*, not \"hello\""),
        ({"conversations": {"from": "human", "value": "<image>"}}, "'conversations' must be a list"),
        ({"conversations": [HUMAN]}, "pairs of human and gpt, not human; complete or remove the row"),
        ({"conversations": [HUMAN, GPT, {"from": "human", "value": "Why?"}]}, "not human, gpt, human"),
        ({"conversations": [HUMAN, GPT, GPT, GPT]}, "not human, gpt, gpt, gpt"),
        ({"conversations": [GPT], "image": None}, "not one answer alone"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": " \n\t"}]}, "an empty answer"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": ""}]}, "an empty answer"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": "a \ud83d cat"}]}, "half a surrogate pair"),
        ({"image": ["0.png"]}, r"'image' must be one path as a string, or null for text only, not \[\"0.png\"\]"),
        ({"image": 5}, "'image' must be one path as a string, .*, not 5"),
        ({"image": ""}, "'image' must be one path"),
        ({"image": "a\0.png"}, "'image' must be one path"),
        ({"image": None}, "1 <image> in its turns but image is None"),
        ({"image": "/etc/0.png"}, "must be relative"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_file_row_and_id(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps([GOOD, {**GOOD, "id": "bad", **change}]))
    with pytest.raises(DataError, match=rf"^{file}, row 1 \(id 'bad'\): .*{message}"):
        read_llava(file, tmp_path)


@pytest.mark.parametrize("bad", [None, 5, ["id"], {"conversations": []}, {"id": None}, {"id": True}, {"id": 1.5}])
def test_a_row_without_an_id_is_named_by_its_number(tmp_path: Path, bad: object) -> None:
    (tmp_path / "d.json").write_text(json.dumps([GOOD, bad]))
    with pytest.raises(DataError, match=r"d\.json, row 1: needs an "):
        read_llava(tmp_path / "d.json", tmp_path)


def test_null_counts_as_absent_and_numbers_are_valid_ids(tmp_path: Path) -> None:
    text = {"id": 7, "image": None, "images": None, "text": None, "conversations": [{**HUMAN, "value": "Hi"}, GPT]}
    (tmp_path / "d.json").write_text(json.dumps([text]))
    (row,) = read_llava(tmp_path / "d.json", tmp_path)
    assert (row.id, row.image, [turn.text for turn in row.turns]) == ("7", None, ["Hi", "a cat"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"id": 1}'])
def test_a_file_that_is_not_a_list_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.json: (cannot be read as JSON|needs a list)"):
        read_llava(tmp_path / "d.json", tmp_path)


def test_a_row_that_cannot_be_encoded_is_named_with_its_file(world: Path, tmp_path: Path) -> None:
    rows = json.loads((world / "data.json").read_text())
    rows[4]["conversations"][1]["value"] = "the end <eos>"
    (tmp_path / "d.json").write_text(json.dumps(rows))
    values = stage_of(plan_values(world, tmp_path / "out"), "pretrain", data=str(tmp_path / "d.json"))
    with pytest.raises(LabelError, match=rf"^{tmp_path / 'd.json'}, row 4: row 'p4': .*<eos>"):
        run_plan(values)
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_a_fine_tuning_row_before_the_first_stage(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((world / "data.json").read_text())
    rows[2]["conversations"][1]["value"] = None
    (tmp_path / "tune.json").write_text(json.dumps(rows))
    values = plan_values(world, tmp_path / "out")
    values["stages"][1]["data"] = str(tmp_path / "tune.json")
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "plan.json")]) == 2
    shown = capfd.readouterr()
    assert "tune.json, row 2 (id 'p2'): conversations[1]" in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_missing_images_are_counted_and_named_before_step_1(world: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for file in (world / "images").iterdir():
        (images / file.name).write_bytes(b"" if file.name == "2.png" else file.read_bytes())
    (images / "5.png").unlink()
    values = plan_values(world, tmp_path / "out")
    values["stages"][1]["images"] = str(images)
    with pytest.raises(
        DataError,
        match=rf"2 of 6 image files are missing or empty in '{images}': '2\.png' \(row 2, id 'p2'\), '5\.png' \(row 5",
    ):
        run_plan(values)
    assert not (tmp_path / "out").exists()


def test_only_the_first_of_many_missing_files_are_named(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": str(n), "image": f"a/{n % 8}.png"} for n in range(3000)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    samples = read_llava(tmp_path / "d.json", tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"there")
    assert len(missing_files(str(sample.image) for sample in samples)) == 7
    with pytest.raises(DataError, match=r"7 of 8 image files .*'a/1\.png' \(row 1, .*'a/5\.png' .* and 2 more; put"):
        check_images(samples, tmp_path / "d.json", tmp_path)


def test_a_file_without_permission_is_not_reported_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.stat

    def closed(path: Any, **arguments: Any) -> os.stat_result:
        if str(path) == "/closed/0.png":  # root, as in a container, has access everywhere
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return look(path, **arguments)

    monkeypatch.setattr(os, "stat", closed)
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")
    with pytest.raises(EnvironmentFault, match=r"/closed/0\.png: Permission denied \(EACCES\)"):
        missing_files(["/closed/0.png"])


def test_an_environment_fault_is_retried_and_then_names_the_image(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    open_image, failures = Image.open, [errno.EIO, errno.ESTALE]

    def failing(source: Any) -> Any:
        if failures:
            code = failures.pop()
            raise OSError(code, os.strerror(code))
        return open_image(source)

    monkeypatch.setattr("toolkit.file_errors._gave_up", {})  # an earlier test may have given up on the same error
    monkeypatch.setattr(Image, "open", failing)
    monkeypatch.setenv(PATIENCE_VARIABLE, "2")
    assert read_image(world / "images" / "0.png", sample_id="p0").size == (50, 40)
    failures += [errno.EIO] * 99
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    with pytest.raises(EnvironmentFault, match=r"images/0\.png: Input/output error \(EIO\)"):
        read_image(world / "images" / "0.png", sample_id="p0")


def test_rows_are_checked_without_importing_torch_or_transformers() -> None:
    code = "import sys, toolkit.data.image_files; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
