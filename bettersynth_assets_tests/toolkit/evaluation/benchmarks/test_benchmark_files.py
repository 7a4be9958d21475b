"""Benchmark files are checked as strictly as a seed file: each fault is named before a model is loaded."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toolkit.evaluation.benchmarks.mmbench.benchmark import MMBENCH
from toolkit.evaluation.benchmarks.mmbench.table import read_images, read_table
from toolkit.evaluation.benchmarks.protocol import Options, Questions
from toolkit.evaluation.benchmarks.textvqa.annotations import read_annotations
from toolkit.evaluation.benchmarks.textvqa.benchmark import TEXTVQA
from toolkit.evaluation.image_check import fault_of
from toolkit.evaluation.settings import choose
from toolkit.questions.answer_files import AnswerError, id_text
from toolkit.questions.prompt_text import clean_prompt


def read_mmbench(path: Path) -> Questions:
    return MMBENCH.read({"table": path}, Options())


def read_textvqa(questions: Path, annotations: Path, images: Path) -> Questions:
    return TEXTVQA.read({"questions": questions, "annotations": annotations, "images": images}, Options())


HEAD = ["index", "question", "hint", "A", "B", "C", "D", "answer", "image"]


def _image(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


CELL = base64.b64encode(_image()).decode()
ROW = ["7", "Which?", "", "red", "blue", "", "", "A", CELL]
FIRST = "\t".join(HEAD).encode() + b"\n"


def _tsv(path: Path, *rows: list[str], head: list[str] = HEAD) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in (head, *rows)), encoding="utf-8")
    return path


def _changed(**cells: str) -> list[str]:
    return [cells.get(name, cell) for name, cell in zip(HEAD, ROW, strict=True)]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"index": ""}, r"m\.tsv, row 2: .*'index' of whole numbers; found ''"),
        ({"index": "x1"}, r"row 2: .*found 'x1'"),
        ({"index": "7.0"}, r"row 2: index 7 is that of row 1 too"),
        ({"answer": ""}, r"1 rows have no right answer \(first: index 8\)"),
        ({"answer": "a"}, r"1 rows have no right answer \(first: index 8\)"),
        ({"answer": "C"}, r"m\.tsv: question 8: the right answer is C, and that option is empty"),
        ({"answer": "B", "B": "nan"}, r"question 8: the right answer is B, and that option is empty"),
        ({"A": " "}, r"question 8: the right answer is A, and that option is empty"),
        ({"C": "", "D": "green"}, r"question 8: option C is empty and D is not"),
        ({"question": " "}, r"question 8: its text is empty"),
        ({"question": "What<end_of_turn>?"}, r"question 8, question: holds <end_of_turn>"),
        ({"B": "<eos>"}, r"question 8, B: holds <eos>"),
        ({"hint": "<start_of_turn>model"}, r"question 8, hint: holds <start_of_turn>"),
        ({"image": ""}, r"row 8: has no image"),
        ({"image": "!"}, r"row 8: its image is no base64"),
        ({"image": CELL[:-3]}, r"row 8: its image is no base64"),
        ({"image": "data:image/png,abc"}, r"row 8: its image is a data: URI without ';base64,'"),
        ({"image": "https://x.org/1.png"}, r"row 8: its image is an address"),
    ],
)
def test_each_fault_in_an_mmbench_row_is_named(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    path = _tsv(tmp_path / "m.tsv", ROW, _changed(**{"index": "8", **cells}))
    with pytest.raises(AnswerError, match=message):
        read_mmbench(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column and 0 rows"),
        (FIRST, "and 0 rows"),
        (FIRST.replace(b"hint", b"A"), "column 'A' comes twice"),
        (FIRST + "\t".join(ROW[:5]).encode(), "row 1: 5 cells for 9 columns; was the file cut off"),
        (FIRST + b'7\t"Which', "unexpected end of data.*was the file cut off"),
        (FIRST + b"7\t\xff", "no UTF-8 .*at byte"),
        (FIRST.decode().encode("utf-16"), "no UTF-8"),
        (FIRST.replace(b"image", b"img") + "\t".join(ROW).encode(), "column 'image' is missing; it has index"),
        (FIRST.replace(b"index", b"number") + "\t".join(ROW).encode(), "needs rows with a column 'index'"),
    ],
)  # fmt: skip
def test_an_mmbench_file_that_is_not_a_complete_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.tsv"
    path.write_bytes(content)
    with pytest.raises(AnswerError, match=message) as refused:
        read_mmbench(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


def test_an_invalid_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.xlsx"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(AnswerError, match=r"m\.xlsx: cannot be read as a table"):
        read_table(path)


def test_data_uris_wrapped_base64_and_references_are_decoded_to_images(tmp_path: Path) -> None:
    wrapped = "\n".join(CELL[at : at + 60] for at in range(0, len(CELL), 60))
    rows = [
        ROW,
        _changed(index="8", image=f"data:image/png;base64,{CELL}"),
        _changed(index="9", image=f"DATA:image/jpeg;charset=utf-8;BASE64,{CELL}"),
        _changed(index="10", image=f'"{wrapped}"'),
        _changed(index="1000007", image="7"),
    ]
    path = _tsv(tmp_path / "m.tsv", *rows)
    found = {question.id: question.image for question in read_mmbench(path).rows}
    assert list(found) == ["7", "8", "9", "10", "1000007"]
    assert set(found.values()) == {_image()}
    assert read_images(read_table(path)) == found


def test_image_tokens_are_removed_from_questions_hints_and_options(tmp_path: Path) -> None:
    row = _changed(question="<image>\nWhich <image> one?", hint="See <__dj__image>", B="blue <image>")
    table: Any = read_mmbench(_tsv(tmp_path / "m.tsv", [f'"{cell}"' for cell in row])).source
    assert [table[name][0] for name in ("question", "hint", "A", "B")] == ["Which one?", "See", "red", "blue"]
    assert clean_prompt("What?\n<image>\nAnswer.", where="") == "What?\nAnswer."
    assert clean_prompt("<ima<image>ge>\nWhat?", where="") == "<ima ge>\nWhat?"
    assert clean_prompt(" kept as it is\n", where="") == " kept as it is\n"


def _textvqa(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda row: row) -> tuple[Path, Path, Path]:
    rows = [{"question_id": f"i{n}", "image": f"i{n}.png", "text": f"What is {n}?\nOne word."} for n in range(2)]
    data = [{"image_id": f"i{n}", "question": f"What is {n}?", "answers": ["x"] * 10} for n in range(2)]
    change(rows[1])
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.json").write_text(json.dumps({"data": data}))
    return folder / "q.jsonl", folder / "a.json", folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "What is 1?<eos>"}, r"q\.jsonl, question i1: holds <eos>"),
        ({"text": " <image>"}, "question i1: its text is empty"),
        ({"text": None}, "line 2: 'text' is no text but None"),
        ({"image": ["i1.png"]}, "line 2: 'image' is no text"),
        ({"image": "../i1.png"}, "question i1: image '../i1.png' must be a path inside the folder"),
        ({"image": "/i1.png"}, "question i1: image '/i1.png' must be a path inside the folder"),
        ({"image": "http://x/i1.png"}, "question i1: image 'http://x/i1.png' must be a path inside"),
        ({"question_id": None}, "line 2: 'question_id' must be text or a whole number; found null"),
        ({"question_id": 1.5}, "line 2: 'question_id' must be text or a whole number; found 1.5"),
        ({"question_id": True}, "line 2: 'question_id' must be text or a whole number; found true"),
        ({"question_id": "i0"}, "1 answers belong to no question or come twice"),
    ],
)  # fmt: skip
def test_each_fault_in_a_textvqa_question_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    files = _textvqa(tmp_path, lambda row: row.update(change))
    with pytest.raises(AnswerError, match=message):
        read_textvqa(*files)


def test_image_tokens_are_removed_from_a_textvqa_question(tmp_path: Path) -> None:
    files = _textvqa(tmp_path, lambda row: row.update(text="<image>\nWhat is 1? <image>\nOne word."))
    assert [question.text for question in read_textvqa(*files).rows] == [
        "What is 0?\nOne word.",
        "What is 1?\nOne word.",
    ]


def test_an_image_root_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    questions, annotations, _ = _textvqa(tmp_path)
    files = {"questions": questions, "annotations": annotations, "images": questions}
    with pytest.raises(AnswerError, match=r"textvqa\.images: '.*q\.jsonl' is a file, not a folder"):
        choose("textvqa", files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"q\.jsonl: holds no rows"),
        (b'{"question_id": "i0"\n', "line 1: no JSON"),
        (b'{"text": "\xff"}\n', "line 1: no UTF-8"),
        (b'{"question_id": "i0", "image": "i0.png", "text": "x", "text": "y"}\n', "line 1: .*'text' comes twice"),
        (b'{"question_id": NaN, "image": "i0.png", "text": "x"}\n', "line 1: .*NaN is not JSON"),
        (b'{"question_id": "i0", "image": "i0.png", "text": "\\ud800"}\n', "line 1: half of a surrogate pair"),
        (b"[1]\n", "line 1: 'question_id' is missing; it is no object"),
        (b"[" * 100_000, "line 1: no JSON"),
    ],
)
def test_an_invalid_questions_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    questions, annotations, images = _textvqa(tmp_path)
    questions.write_bytes(content)
    with pytest.raises(AnswerError, match=message):
        read_textvqa(questions, annotations, images)


def _annotated(**change: Any) -> dict[str, Any]:
    return {"question_id": 5, "image_id": "i1", "question": "What?", "answers": ["x"] * 10, **change}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([_annotated()], "needs an object with a list 'data'.*it is a list"),
        ({"questions": []}, "needs an object with a list 'data'.*it is an object with 'questions'"),
        ({"data": {}}, "needs an object with a list 'data'"),
        ({"data": []}, "'data' holds no rows"),
        (None, "it is missing or null"),
        ({"data": [_annotated(), None]}, "row 2: needs an object; it is missing or null"),
        ({"data": [_annotated(answers=None)]}, r"row 1 \(question_id 5\): 'answers' must be 10 texts; .*null; a test"),
        ({"data": [_annotated(answers="x")]}, r"row 1 .*'answers' must be 10 texts; it is text"),
        ({"data": [_annotated(answers=["x"] * 9 + [None])]}, "'answers' must be 10 texts; one is missing or null"),
        ({"data": [_annotated(answers=["x"] * 9 + [7])]}, "'answers' must be 10 texts; one is a number"),
        ({"data": [_annotated(answers=["x"] * 9)]}, "'answers' holds 9 texts; the metric needs 10"),
        ({"data": [_annotated(image_id=None)]}, "'image_id' must be text or a whole number; found null"),
        ({"data": [_annotated(question=None)]}, "'question' must be text; it is missing or null"),
        ({"data": [_annotated(question=" ")]}, "'question' must be text; it is empty text"),
        ({"data": [_annotated(question_id=[1])]}, r"'question_id' must be text or a whole number; found \[1\]"),
        ({"data": [_annotated(), _annotated(question_id="5")]}, "row 2: question_id 5 is that of row 1 too"),
    ],
)
def test_each_fault_in_an_annotations_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnswerError, match=message) as refused:
        read_annotations(path)
    assert str(refused.value).startswith(str(path))


def test_annotations_may_have_numeric_ids_and_nulls_for_optional_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = [_annotated(image_id=12, question_id=None, set_name=None), _annotated(question_id=6.0, set_name="val")]
    path.write_text("\ufeff" + json.dumps({"dataset_version": None, "dataset_type": "val", "data": rows}))
    found = read_annotations(path)
    assert [(row.image_id, row.question_id) for row in found.rows] == [("12", None), ("i1", "6")]
    assert found.name == "TextVQA ? val"
    assert [id_text(value, where="") for value in (7, 7.0, " 7 ", "7")] == ["7"] * 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_truncated_image_is_distinguished_from_a_complete_one(tmp_path: Path, kind: str) -> None:
    whole = _image(kind)
    assert fault_of(whole) is None
    for part in (whole[: len(whole) // 2], whole[:-10], whole[:10]):
        assert "its inline image" in (fault_of(part) or "")
    (tmp_path / "x").write_bytes(whole[:-10])
    assert f"image {tmp_path / 'x'} cannot be read" in (fault_of(tmp_path / "x") or "")


def test_missing_empty_and_invalid_images_are_distinguished(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "x.png") == f"image {tmp_path / 'x.png'} is missing"
    assert fault_of(b"") == fault_of(b"a page of text") == "its inline image is no image of a known format"
    damaged = bytearray(_image())
    damaged[60] ^= 1
    assert "broken PNG" in (fault_of(bytes(damaged)) or "")
