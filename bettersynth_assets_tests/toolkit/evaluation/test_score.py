"""Scoring answer files that other tools wrote, in each layout of LLaVA's and MGM's scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bettersynth_assets_tests.helpers.golden_vectors import golden
from bettersynth_assets_tests.helpers.paths import EVALUATION_GOLDEN as GOLDEN
from toolkit.evaluation import score
from toolkit.evaluation.benchmarks.mmbench.table import options_of, read_table
from toolkit.evaluation.benchmarks.mmbench.upload import upload_table, write_upload

OCR = "Reference OCR token: FOX, TEA"
ASK = "Answer the question using a single word or phrase."
DATA: list[dict[str, Any]] = [
    {"image_id": "i1", "question_id": 34602, "question": "What is it?", "answers": ["fox"] * 10},
    {"image_id": "i1", "question_id": 34603, "question": "Which colour?", "answers": ["red"] * 10},
    {"image_id": "i2", "question_id": 34604, "question": "What is it?", "answers": ["tea"] * 10},
]
TEXTS = ["fox", "Red.", "coffee"]


def _score(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert score.main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    result: dict[str, Any] = json.loads(lines[0])
    assert {"benchmark", "accuracy", "n", "protocol", "unparsed", "missing"} <= set(result)
    return result


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        score.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _textvqa(folder: Path, prompts: Sequence[str], *, ids: str = "image_id") -> tuple[Path, Path]:
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps({"dataset_type": "val", "dataset_version": "0.5.1", "data": DATA}))
    tail = {"answer_id": "x", "model_id": "other-model", "metadata": {}}
    rows = [
        {"question_id": row[ids], "prompt": prompt, "text": text, **tail}
        for row, prompt, text in zip(DATA, prompts, TEXTS, strict=True)
    ]
    return annotations, _lines(folder / "merge.jsonl", rows)


@pytest.mark.parametrize(
    ("form", "protocol"),
    [
        ("{q}\n" + OCR + "\n" + ASK, "with OCR tokens, single word or phrase"),
        (OCR + "\n{q}\n" + ASK, "with OCR tokens, single word or phrase"),
        ("<image>\n{q}\n" + OCR + "\n" + ASK, "with OCR tokens, single word or phrase"),
        ("{q}\n" + ASK, "without OCR tokens, single word or phrase"),
        ("{q}\nAnswer in one word.", "without OCR tokens, instruction 'Answer in one word.'"),
        ("{q}", "without OCR tokens, no instruction"),
        ("OCR tokens: FOX, TEA. Question: {q} Short answer:", "with OCR tokens, instruction 'Short answer:'"),
    ],
)
@pytest.mark.parametrize("ids", ["image_id", "question_id"])
def test_textvqa_answers_are_read_with_any_prompt_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, protocol: str, ids: str
) -> None:
    prompts = [form.format(q=row["question"]) for row in DATA]
    annotations, answers = _textvqa(tmp_path, prompts, ids=ids)
    result = _score(capsys, "textvqa", "--annotations", annotations, "--answers", answers)
    assert (result["accuracy"], result["n"], result["missing"]) == (pytest.approx(200 / 3), 3, 0)
    assert result["protocol"] == f"TextVQA 0.5.1 val, {protocol}, leave-one-out"


def test_the_textvqa_protocol_reports_mixed_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forms = (f"{{}}\n{OCR}\n{ASK}", f"{{}}\n{ASK}", "{}\nOne word.")
    prompts = [form.format(row["question"]) for form, row in zip(forms, DATA, strict=True)]
    annotations, answers = _textvqa(tmp_path, prompts)
    result = _score(capsys, "textvqa", "--annotations", annotations, "--answers", answers)
    assert result["protocol"] == "TextVQA 0.5.1 val, OCR tokens in part, 2 different instructions, leave-one-out"


def test_faults_in_an_answers_file_are_reported_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations, answers = _textvqa(tmp_path, [row["question"] for row in DATA])
    good = answers.read_text()
    command = ("textvqa", "--annotations", annotations, "--answers", answers)
    for content, message in (
        (good[:-20], "merge.jsonl, line 3: no JSON"),
        (good.replace('"text": "fox"', '"answer": "fox"'), "line 1: 'text' is missing; it has 'question_id', 'prompt'"),
        (good.replace('"text": "fox"', '"text": null'), "line 1: 'text' is no text but None"),
        ("", "holds no rows"),
        (
            good.replace("coffee", "tea").replace('"What is it?"', '"a\\nb\\nc\\nd"', 1),
            "no question found in the prompt",
        ),
    ):
        answers.write_text(content)
        assert message in _refused(capsys, *command)


def _questions(folder: Path) -> Path:
    """Return two questions in all their rotations, as separate rows (7 and 8), and their table."""
    rows = []
    for index, options in ((7, ["red", "blue"]), (8, ["big", "small", "flat"])):
        for turn in range(len(options)):
            shown = options[turn:] + options[:turn]
            cells = dict(zip("ABCD", [*shown, "", ""], strict=False))
            answer = "ABC"[shown.index(options[0])]
            rows.append(
                {"index": index + 1_000_000 * turn, "question": "Which?", "hint": "", **cells, "answer": answer}
            )
    table = pd.DataFrame(rows).assign(
        split="dev", category="x", source="y", image="aGk=", comment="", **{"l2-category": "z"}
    )
    table.to_csv(folder / "bench.tsv", sep="\t", index=False)
    return folder / "bench.tsv"


def _answer_lines(questions: Path, *, all_turns: bool, wrong: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the output of ``model_vqa_mmbench`` for a model that is wrong in one row and turn."""
    lines = []
    for row in read_table(questions).to_dict("records"):
        options = options_of(row)
        letters = list("ABCD"[: len(options)])
        for turn in range(len(options) if all_turns else 1):
            text = "ABCD"[letters.index(row["answer"])]
            if (int(row["index"]), turn) == wrong:
                text = "ABCD"[(letters.index(row["answer"]) + 1) % len(letters)]
            lines.append({
                "question_id": int(row["index"]), "round_id": turn, "prompt": "Which?", "text": text,
                "options": options, "option_char": letters, "answer_id": "x", "model_id": "m", "metadata": {},
            })  # fmt: skip
            options, letters = options[1:] + options[:1], letters[1:] + letters[:1]
    return lines


@pytest.mark.parametrize(
    ("all_turns", "wrong", "rows", "right"),
    [
        (False, (0, 0), 5, 2), (False, (1_000_007, 0), 5, 1), (False, (8, 2), 5, 2),
        (True, (0, 0), 13, 2), (True, (1_000_008, 2), 13, 1),
    ],
)  # fmt: skip
def test_an_mmbench_answers_file_has_one_answer_per_row_or_all_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], all_turns: bool, wrong: tuple[int, int], rows: int, right: int
) -> None:
    questions = _questions(tmp_path)
    answers = _lines(tmp_path / "answers.jsonl", _answer_lines(questions, all_turns=all_turns, wrong=wrong))
    command = ("mmbench", "--predictions", answers, "--questions", questions)
    result = _score(capsys, *command)
    assert (result["n"], result["right"], result["rows"], result["unparsed"]) == (2, right, rows, 0)
    style = "CircularEval in turns of each row" if all_turns else "CircularEval"
    assert result["protocol"] == f"MMBench dev, {style}, prompt not recorded"
    assert "give the benchmark as --questions" in _refused(capsys, *command[:3])
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join(lines[:-1]))
    first = "2000008 turn 2" if all_turns else "2000008"
    assert f"1 of {rows} rows have no prediction (first: ['{first}'])" in _refused(capsys, *command)


def test_an_mmbench_answer_of_a_later_turn_needs_its_letters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = _questions(tmp_path)
    lines = _answer_lines(questions, all_turns=True, wrong=(0, 0))
    del lines[1]["option_char"]
    answers = _lines(tmp_path / "answers.jsonl", lines)
    assert "question 7, turn 1: needs 'option_char'" in _refused(
        capsys, "mmbench", "--predictions", answers, "--questions", questions
    )


@pytest.mark.parametrize("suffix", [".xlsx", ".tsv"])
def test_an_mmbench_upload_of_the_convert_script_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    questions = _questions(tmp_path)
    table = pd.read_table(questions)
    upload = table.drop(columns=["hint", "category", "source", "image", "comment", "l2-category"])
    upload.insert(
        6, "prediction", ["A", "B", "A", "C", "maybe B"]
    )  # numbers stay numbers and empty options NaN, as in that script
    path = tmp_path / f"upload{suffix}"

    def write(frame: pd.DataFrame) -> None:
        frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_csv(path, sep="\t", index=False)

    write(upload)
    result = _score(capsys, "mmbench", "--predictions", path)
    assert (result["n"], result["right"], result["rows"], result["unparsed"]) == (2, 1, 5, 1)
    assert result == _score(capsys, "mmbench", "--predictions", path, "--questions", questions)
    write(upload.assign(prediction=["A", float("nan"), "A", "C", float("nan")]))
    assert "2 of 5 rows have no prediction (first: index 1000007)" in _refused(capsys, "mmbench", "--predictions", path)
    write(upload.drop(columns="prediction"))
    assert "column 'prediction' is missing" in _refused(capsys, "mmbench", "--predictions", path)


def test_a_tsv_upload_keeps_characters_that_a_workbook_cannot_contain(tmp_path: Path) -> None:
    table = read_table(_questions(tmp_path))
    write_upload(upload_table(table, ["A", "B", "per\x07haps", "C", "B"]), tmp_path / "upload")
    for suffix, text in ((".tsv", "per\x07haps"), (".xlsx", "perhaps")):
        upload = read_table(tmp_path / f"upload{suffix}")
        assert list(upload.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
        assert list(upload["prediction"]) == ["A", "B", text, "C", "B"]


@pytest.mark.slow
@golden
def test_golden_predictions_get_the_same_score_in_every_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = GOLDEN / "mmbench_dev_predictions.tsv"
    table = read_table(source)
    lines = [{"question_id": int(i), "text": t} for i, t in zip(table["index"], table["prediction"], strict=True)]
    table.drop(columns="prediction").to_csv(tmp_path / "bench.tsv", sep="\t", index=False)
    write_upload(upload_table(table, list(table["prediction"])), tmp_path / "upload")
    answers, questions = _lines(tmp_path / "a.jsonl", lines), ("--questions", tmp_path / "bench.tsv")
    results = [
        _score(capsys, "mmbench", "--predictions", source),
        _score(capsys, "mmbench", "--predictions", answers, *questions),
        _score(capsys, "mmbench", "--predictions", tmp_path / "upload.xlsx", *questions),
    ]
    assert results[0] == results[1] == results[2]
    assert (results[0]["right"], results[0]["n"]) == (274, 400)


def _upload(folder: Path, rows: int) -> tuple[Path, Path]:
    """Return the first rows of a complete upload, all answered correctly, and the benchmark."""
    questions = _questions(folder)
    table = read_table(questions).sort_values("index", key=lambda index: index.astype(int))
    upload = upload_table(table, list(table["answer"]))
    upload[:rows].to_csv(folder / "upload.tsv", sep="\t", index=False)
    return folder / "upload.tsv", questions


@pytest.mark.parametrize(("rows", "incomplete", "missing"), [(4, 1, 1), (3, 1, 2), (2, 2, 3), (1, 1, 1)])
def test_a_truncated_upload_is_never_reported_as_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int, incomplete: int, missing: int
) -> None:
    upload, questions = _upload(tmp_path, rows)
    command = ["mmbench", "--predictions", str(upload)]
    assert score.main(command) == 3
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["incomplete"], result["missing"]) == (incomplete, missing)
    assert result["protocol"].startswith("incomplete, MMBench dev, ")
    assert printed.err.startswith(f"incomplete: {incomplete} of {result['n']} questions have fewer rows than rotations")
    assert score.main([*command, "--allow-incomplete"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert f"{5 - rows} of 5 rows have no prediction" in _refused(capsys, *command, "--questions", questions)


def test_a_full_upload_is_reported_as_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upload, _ = _upload(tmp_path, 5)
    result = _score(capsys, "mmbench", "--predictions", upload)
    assert (result["accuracy"], result["missing"], "incomplete" in result) == (100, 0, False)
    assert result["protocol"] == "MMBench dev, CircularEval, prompt not recorded"


def test_a_truncated_benchmark_is_reported_as_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = _questions(tmp_path)
    lines = _answer_lines(questions, all_turns=False, wrong=(0, 0))
    table = pd.read_table(questions, dtype=str, keep_default_na=False)
    for rows, code in ((5, 0), (4, 3)):
        table[:rows].to_csv(questions, sep="\t", index=False)
        answers = _lines(tmp_path / "answers.jsonl", lines[:rows])
        assert score.main(["mmbench", "--predictions", str(answers), "--questions", str(questions)]) == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["protocol"].startswith("incomplete, ")


@golden
def test_part_of_the_real_upload_is_reported_as_incomplete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = pd.read_table(GOLDEN / "mmbench_dev_predictions.tsv", dtype=str, keep_default_na=False)
    for rows, incomplete in ((300, 300), (900, 313), (1480, 1)):
        lines[:rows].to_csv(tmp_path / "upload.tsv", sep="\t", index=False)
        assert score.main(["mmbench", "--predictions", str(tmp_path / "upload.tsv")]) == 3
        assert json.loads(capsys.readouterr().out)["incomplete"] == incomplete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round_id": None}, "question 7: 'round_id' must be a whole number from 0; found null"),
        ({"round_id": 0.5}, "'round_id' must be a whole number from 0; found 0.5"),
        ({"round_id": -1}, "'round_id' must be a whole number from 0; found -1"),
        ({"round_id": True}, "'round_id' must be a whole number from 0; found true"),
        ({"option_char": None}, "question 7, turn 0: needs 'option_char'"),
        ({"option_char": ["A", None]}, "question 7, turn 0: needs 'option_char'"),
        ({"option_char": ["A", "A"]}, "question 7, turn 0: needs 'option_char'"),
        ({"question_id": None}, "line 1: 'question_id' must be text or a whole number; found null"),
        ({"text": 5}, "line 1: 'text' is no text but 5"),
    ],
)
def test_faults_in_an_mmbench_answers_file_name_the_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    questions = _questions(tmp_path)
    lines = _answer_lines(questions, all_turns=False, wrong=(0, 0))
    answers = _lines(tmp_path / "answers.jsonl", [{**lines[0], **change}, *lines[1:]])
    words = _refused(capsys, "mmbench", "--predictions", answers, "--questions", questions)
    assert message in words and words.count("\n") == 1


def test_text_ids_and_numeric_ids_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = _questions(tmp_path)
    lines = _answer_lines(questions, all_turns=False, wrong=(0, 0))
    changed = [{**line, "question_id": str(line["question_id"]), "round_id": "0"} for line in lines[:2]]
    changed += [{**line, "question_id": float(line["question_id"])} for line in lines[2:]]
    answers = _lines(tmp_path / "answers.jsonl", changed)
    assert _score(capsys, "mmbench", "--predictions", answers, "--questions", questions)["right"] == 2


@pytest.mark.parametrize("suffix", ["jsonl", "tsv", "xlsx", "json"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty"])
def test_an_unreadable_file_gives_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, kind: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    questions = _questions(tmp_path)
    if suffix == "json":
        _, answers = _textvqa(tmp_path, [row["question"] for row in DATA])
        command: tuple[object, ...] = ("textvqa", "--annotations", path, "--answers", answers)
    else:
        command = ("mmbench", "--predictions", path, "--questions", questions)
    words = _refused(capsys, *command)
    assert words.startswith("error: ") and str(path) in words and words.count("\n") == 1


def test_annotations_that_are_a_list_give_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, answers = _textvqa(tmp_path, [row["question"] for row in DATA])
    annotations.write_text(json.dumps(DATA))
    words = _refused(capsys, "textvqa", "--annotations", annotations, "--answers", answers)
    assert "needs an object with a list 'data'" in words and words.count("\n") == 1
