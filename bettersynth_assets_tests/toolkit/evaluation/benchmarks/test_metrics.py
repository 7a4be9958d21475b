"""TextVQA and MMBench metrics, compared with the reference's real vectors and with small cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bettersynth_assets_tests.helpers.golden_vectors import golden
from bettersynth_assets_tests.helpers.paths import EVALUATION_GOLDEN as GOLDEN
from toolkit.evaluation import score
from toolkit.evaluation.benchmarks.mmbench import metric as mmbench
from toolkit.evaluation.benchmarks.mmbench.letters import parse_letter
from toolkit.evaluation.benchmarks.mmbench.rotations import missing_rotations
from toolkit.evaluation.benchmarks.mmbench.table import check_answers, read_table
from toolkit.evaluation.benchmarks.mmbench.table import prompt as mmbench_prompt
from toolkit.evaluation.benchmarks.textvqa import metric as textvqa
from toolkit.evaluation.benchmarks.textvqa.answer_processing import process_answer
from toolkit.questions.answer_files import AnswerError


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text("utf-8").splitlines()]


@golden
def test_every_golden_answer_is_normalised_as_by_the_reference() -> None:
    rows = _rows("textvqa_answer_processing.jsonl")
    wrong = [
        (r["raw"], r["processed"], process_answer(r["raw"])) for r in rows if process_answer(r["raw"]) != r["processed"]
    ]
    assert len(rows) == 1000 and wrong == []


@golden
def test_every_golden_textvqa_score_is_exact() -> None:
    rows = _rows("textvqa_scores.jsonl")
    assert len(rows) == 500
    assert [textvqa.answer_score(r["pred"], r["answers"]) for r in rows] == [r["score"] for r in rows]


@golden
def test_golden_mmbench_counts_are_exact(capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["mmbench", "--predictions", str(GOLDEN / "mmbench_dev_predictions.tsv")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["right"], result["n"], result["rows"], result["unparsed"]) == (274, 400, 1481, 0)
    assert result["row_accuracy"] == pytest.approx(77.71775827, abs=1e-8)


@golden
def test_the_question_is_extracted_from_real_prompts() -> None:
    rows = _rows("textvqa_questions_ocr_50.jsonl")
    assert len(rows) == 50
    for row in rows:
        lines = row["text"].split("\n")
        assert textvqa.read_prompt(row["text"]) == (lines[0], True, textvqa.INSTRUCTION)


@golden
def test_real_mmbench_rows_become_prompts() -> None:
    table = read_table(GOLDEN / "mmbench_dev_20_with_images.tsv")
    assert len(table) == 20
    for row in table.to_dict("records"):
        options = [f"{letter}. {row[letter]}" for letter in "ABCD" if row[letter]]
        assert mmbench_prompt(row).endswith("\n".join([row["question"], *options])) and len(options) >= 2


@pytest.mark.parametrize(
    ("raw", "processed"),
    [
        ("The Ten Dogs", "10 dogs"), ("dont", "don't"), ("couldntve", "couldntve"), ("couldn'tve", "couldn't've"),
        ("1,000", "1000"), ("a.b.c", "abc"), ("3.5", "3.5"), (".x" * 40, "x" * 32 + ".x" * 8), ("what?", "what"),
        ("x;y", "x y"), ("x; y", "x y"), ("None", "0"), ("it's", "it 's"),
    ],
)  # fmt: skip
def test_answers_are_normalised_by_the_rules(raw: str, processed: str) -> None:
    assert process_answer(raw) == processed


def test_an_answer_is_scored_against_all_annotators_but_one() -> None:
    humans = ["red"] * 3 + ["blue"] * 7
    assert textvqa.answer_score("Red", humans) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert textvqa.answer_score("green", humans) == 0
    with pytest.raises(AnswerError, match="9 human answers"):
        textvqa.answer_score("red", humans[:9])


def _annotations(folder: Path) -> Path:
    data = [
        {"image_id": "i1", "question": "What is it?", "answers": ["fox"] * 10},
        {"image_id": "i1", "question": "Which colour?", "answers": ["red"] * 10},
        {"image_id": "i2", "question": "What is it?", "answers": ["tea"] * 10},
    ]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"dataset_type": "val", "dataset_version": "0.5.1", "data": data}))
    return path


def _answer(image: str, question: str, text: str) -> dict[str, str]:
    prompt = f"{question}\nReference OCR token: FOX\nAnswer the question using a single word or phrase."
    return {"question_id": image, "prompt": prompt, "text": text}


ANSWERS = [
    _answer("i2", "what is it?", "coffee"),
    _answer("i1", "WHICH colour?", "Red."),
    _answer("i1", "What is it?", "fox"),
]


def test_textvqa_answers_are_joined_by_image_and_question(tmp_path: Path) -> None:
    result = textvqa.evaluate(_annotations(tmp_path), ANSWERS)
    assert (result["accuracy"], result["n"], result["scores"]) == (pytest.approx(200 / 3), 3, [0, 1, 1])
    assert result["protocol"] == "TextVQA 0.5.1 val, with OCR tokens, single word or phrase, leave-one-out"


def test_missing_or_repeated_answers_are_refused_with_their_number(tmp_path: Path) -> None:
    annotations = _annotations(tmp_path)
    with pytest.raises(AnswerError, match="2 of 3 questions have no answer"):
        textvqa.evaluate(annotations, ANSWERS[:1])
    with pytest.raises(AnswerError, match=r"1 answers belong to no question or come twice.*'i1'"):
        textvqa.evaluate(annotations, [*ANSWERS, ANSWERS[2]])
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps(ANSWERS[0]))
    with pytest.raises(SystemExit) as stopped:
        score.main(["textvqa", "--annotations", str(annotations), "--answers", str(answers)])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), (" B ", "B"), ("B.", "B"), ("(C) a cat", "C"), ("A: yes", "A"), ("D", None), ("a", None),
        ("A cat", None), ("The answer is B", None), ("", None), ("AB", None), ("B\n", "B"),
    ],
)  # fmt: skip
def test_letters_are_parsed_and_never_guessed(text: str, letter: str | None) -> None:
    assert parse_letter(text, options=3) == letter


def _bench() -> pd.DataFrame:
    rows = [
        {"index": "7", "hint": "nan", "question": "Colour?", "A": "red", "B": "blue", "C": "", "D": "", "answer": "A"},
        {
            "index": "1000007",
            "hint": "",
            "question": "Colour?",
            "A": "blue",
            "B": "red",
            "C": "",
            "D": "",
            "answer": "B",
        },
        {"index": "8", "hint": "Look.", "question": "Size?", "A": "big", "B": "small", "C": "", "D": "", "answer": "B"},
    ]
    return pd.DataFrame(rows).assign(split="dev", image="aGk=")


def _predicted(*texts: str) -> list[mmbench.Prediction]:
    return [mmbench.Prediction(index, text) for index, text in zip(_bench()["index"], texts, strict=False)]


def test_an_mmbench_prompt_has_the_official_layout() -> None:
    rows = _bench().to_dict("records")
    assert mmbench_prompt(rows[0]) == "Colour?\nA. red\nB. blue"
    assert mmbench_prompt(rows[2]).startswith("Look.\nSize?\nA. big")


def test_circular_accuracy_requires_every_rotation_and_counts_unparsed_answers() -> None:
    result = mmbench.evaluate(_predicted("A", "B", "perhaps B"), _bench(), prompt_name="asked")
    assert (result["accuracy"], result["n"], result["unparsed"], result["missing"]) == (50, 2, 1, 0)
    assert result["protocol"] == "MMBench dev, CircularEval, asked"
    wrong = mmbench.evaluate(_predicted("A", "A", "B"), _bench(), prompt_name="asked")
    assert (wrong["right"], wrong["row_accuracy"]) == (1, pytest.approx(200 / 3))
    plain = mmbench.evaluate(_predicted("A")[:1] + _predicted("", "", "B")[2:], _bench()[::2], prompt_name="asked")
    assert (plain["accuracy"], plain["protocol"]) == (100, "MMBench dev, one order of options, asked")


def test_mmbench_refuses_incomplete_rows_and_a_table_without_correct_answers() -> None:
    with pytest.raises(AnswerError, match=r"1 of 3 rows have no prediction \(first: \['8'\]\)"):
        mmbench.evaluate(_predicted("A", "B"), _bench(), prompt_name="")
    with pytest.raises(AnswerError, match="1 come twice"):
        mmbench.evaluate([*_predicted("A", "B", "B"), *_predicted("A")], _bench(), prompt_name="")
    with pytest.raises(AnswerError, match="column 'answer' is missing"):
        mmbench.evaluate(_predicted("A", "B", "B"), _bench().drop(columns="answer"), prompt_name="")
    with pytest.raises(AnswerError, match=r"1 rows have no right answer \(first: index 8\)"):
        mmbench.evaluate(
            _predicted("A", "B", "B"), _bench().replace({"Size?": ""}).assign(answer=["A", "B", ""]), prompt_name=""
        )


def test_figures_are_rounded_to_their_significant_digits(tmp_path: Path) -> None:
    humans = ["red" if place in (2, 5, 9) else "blue" for place in range(10)]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"data": [{"image_id": "i1", "question": "What?", "answers": humans}]}))
    result = textvqa.evaluate(path, [{"question_id": "i1", "prompt": "What?", "text": "red"}])
    assert (result["scores"], result["accuracy"]) == ([0.8999999999999998], 90.0)
    thirds = mmbench.evaluate(_predicted("A", "A", "B"), _bench(), prompt_name="")
    assert thirds["row_accuracy"] == 66.66666667


def test_an_answer_is_matched_by_its_id_regardless_of_its_prompt(tmp_path: Path) -> None:
    data = [
        {"question_id": 11, "image_id": "i1", "question": "What is it?", "answers": ["fox"] * 10},
        {"question_id": 12, "image_id": "i1", "question": "Which colour?", "answers": ["red"] * 10},
        {"question_id": 13, "image_id": "i2", "question": "What is it?", "answers": ["tea"] * 10},
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"data": data}))

    def score_of(*rows: tuple[Any, str, str]) -> tuple[float, str]:
        answers = [{"question_id": id_, "prompt": prompt, "text": text} for id_, prompt, text in rows]
        result = textvqa.evaluate(path, answers)
        return result["accuracy"], result["protocol"]

    numbers = [(13, "Name it.", "tea"), (11, "a\nb\nc\nd", "fox"), ("12", "Which  COLOUR?", "red")]
    accuracy, protocol = score_of(*numbers)
    assert accuracy == 100 and protocol.endswith("no instruction, 2 prompts differ from their question, leave-one-out")
    images = [("i2", "Another question", "tea"), ("i1", "what is it?", "fox"), ("i1", "Which colour?", "red")]
    assert score_of(*images)[0] == 100
    with pytest.raises(AnswerError, match="1 answers belong to no question"):  # two questions with one id
        score_of(images[0], ("i1", "Another question", "fox"), images[2])
    with pytest.raises(AnswerError, match="question_id i1: no question found in the prompt"):
        score_of(images[0], ("i1", "a\nb\nc\nd", "fox"), images[2])


def test_an_answer_of_spaces_counts_as_empty(tmp_path: Path) -> None:
    annotations = _annotations(tmp_path)
    empty, spaces = (
        textvqa.evaluate(annotations, [ANSWERS[0], {**ANSWERS[1], "text": text}, ANSWERS[2]]) for text in ("", " \n\t ")
    )
    assert empty == spaces and empty["scores"] == [0, 0, 1]
    result = mmbench.evaluate(_predicted("A", "B", " \n "), _bench(), prompt_name="")
    assert (result["unparsed"], result["right"]) == (1, 1)


@pytest.mark.parametrize(
    ("text", "right"), [("A, B", 0), ("A,B,C,D", 0), ("A. or B.", 0), ("A\nbecause", 1), ("（A）", 1)]
)
def test_several_letters_score_nothing(text: str, right: int) -> None:
    table = _bench()[:1]
    result = mmbench.evaluate([mmbench.Prediction("7", text)], table, prompt_name="")
    assert (result["right"], result["unparsed"]) == (right, 1 - right)


def _rotated(index: int, options: list[str], moving: int, turns: int) -> list[dict[str, str]]:
    """Return rows as in the official file: the first options rotate to the right, the others keep their place."""
    rows = []
    for turn in range(turns):
        cells = options[:moving][-turn % moving :] + options[:moving][: -turn % moving] + options[moving:]
        row = dict(zip("ABCD", [*cells, "", "", ""], strict=False))
        rows.append({"index": str(index + turn * 1_000_000), "question": "?", **row, "answer": "A"})
    return rows


def test_missing_rotations_are_counted_and_a_fixed_last_option_is_not_one() -> None:
    whole = [
        *_rotated(1, ["a", "b", "c", "d"], 4, 4),
        *_rotated(2, ["a", "b", "c", "all of them"], 3, 3),
        *_rotated(3, ["a", "b", "a", "all of them"], 3, 3),
        *_rotated(4, ["a", "b", "c", "b"], 4, 4),
        *_rotated(5, ["yes", "no"], 2, 2),
    ]

    def missing(rows: list[dict[str, str]], one_order: bool = False) -> dict[str, tuple[int, int]]:
        return missing_rotations(pd.DataFrame(rows), one_order=one_order)

    assert missing(whole) == {}
    for row, expected in (
        (whole[3], {"1": (3, 4)}), (whole[0], {"1": (3, 4)}), (whole[6], {"2": (2, 3)}), (whole[9], {"3": (2, 3)}),
        (whole[13], {"4": (3, 4)}), (whole[15], {"5": (1, 2)}),
    ):  # fmt: skip
        assert missing([other for other in whole if other is not row]) == expected
    first = [row for row in whole if int(row["index"]) < 1_000_000]
    assert missing(first, one_order=True) == {}
    assert missing(first) == {"1": (1, 4), "2": (1, 4), "3": (1, 4), "4": (1, 4), "5": (1, 2)}


@golden
def test_no_rotation_is_missing_from_the_real_dev_file() -> None:
    table = read_table(GOLDEN / "mmbench_dev_predictions.tsv")
    assert missing_rotations(table, one_order=False) == {}
    assert list(missing_rotations(table[:-1], one_order=False).values()) == [(3, 4)]
    check_answers(table)
