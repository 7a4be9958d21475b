"""GQA: its files, LLaVA's format of predictions, and the figures of eval.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.evaluation.benchmarks.gqa import GQA_BENCHMARK, INSTRUCTION, PREDICTIONS
from toolkit.evaluation.benchmarks.protocol import Options, Questions
from toolkit.evaluation.score import main as score
from toolkit.questions.answer_files import AnswerError

TYPES = ("query", "query", "query", "verify", "verify", "choose", "logical", "compare")
RIGHT = ("red", "top left", "two", "yes", "no", "large", "no", "the fox")
ANSWERS = ("Red.", "top left", "2", " Yes. ", "", "Large..", "no, it is not", "fox")
"""Right by hand: 2 of the 3 open ones; of the 5 binary ones the first and the third; one is empty."""


def _data() -> dict[str, dict[str, Any]]:
    return {
        f"20{number:04d}": {
            "imageId": f"n{number // 2}", "question": f"Is it {number}?", "answer": right, "fullAnswer": "…",
            "isBalanced": True, "types": {"structural": kind, "semantic": "attr", "detailed": "x"},
        }
        for number, (kind, right) in enumerate(zip(TYPES, RIGHT, strict=True))
    }  # fmt: skip


def _write(folder: Path, data: object) -> Path:
    path = folder / "testdev_balanced_questions.json"
    path.write_text(json.dumps(data))
    return path


def _read(folder: Path, data: object) -> Questions:
    return GQA_BENCHMARK.read({"questions": _write(folder, data), "images": Path("images")}, Options())


def test_prompts_equal_llavas_and_the_correct_answer_is_a_candidate(tmp_path: Path) -> None:
    questions = _read(tmp_path, _data())
    assert questions.protocol == "GQA testdev_balanced, single word or phrase"
    assert [row.id for row in questions.rows] == list(_data())
    assert questions.rows[3].text == f"Is it 3?\n{INSTRUCTION}"
    assert questions.rows[3].image == Path("images/n1.jpg")
    assert [prompt.candidates for prompt in GQA_BENCHMARK.prompts(questions)] == [(right,) for right in RIGHT]


def test_figures_equal_a_case_computed_by_hand(tmp_path: Path) -> None:
    scored = GQA_BENCHMARK.score(_read(tmp_path, _data()), ANSWERS)
    assert scored.right == [1, 1, 0, 1, 0, 1, 0, 0]
    assert [(m.name, m.value, m.n, m.unparsed) for m in scored.metrics] == [
        ("accuracy", 50, 8, 1), ("accuracy/open", 66.66666667, 3, 0), ("accuracy/binary", 40, 5, 1),
        ("accuracy/query", 66.66666667, 3, 0), ("accuracy/verify", 50, 2, 1), ("accuracy/choose", 100, 1, 0),
        ("accuracy/logical", 0, 1, 0), ("accuracy/compare", 0, 1, 0),
    ]  # fmt: skip


def test_figures_equal_those_that_eval_py_prints_for_the_written_predictions(tmp_path: Path) -> None:
    """Values printed by GQA's eval.py (copy in PKU-YuanGroup/Video-LLaVA, 984e65b, videollava/eval/eval_gqa.py)."""
    values = {m.name: m.value for m in GQA_BENCHMARK.score(_read(tmp_path, _data()), ANSWERS).metrics}
    official = {
        "accuracy": 50.00, "accuracy/open": 66.67, "accuracy/binary": 40.00, "accuracy/query": 66.67,
        "accuracy/verify": 50.00, "accuracy/choose": 100.00, "accuracy/logical": 0.00, "accuracy/compare": 0.00,
    }  # fmt: skip
    assert {name: round(value, 2) for name, value in values.items()} == official


def test_predictions_have_the_format_that_llava_passes_to_eval_py(tmp_path: Path) -> None:
    GQA_BENCHMARK.write(tmp_path, _read(tmp_path, _data()), ANSWERS, model="m")
    predictions = {row["questionId"]: row["prediction"] for row in json.loads((tmp_path / PREDICTIONS).read_text())}
    words = ["red", "top left", "2", "yes", "", "large", "no, it is not", "fox"]
    assert predictions == dict(zip(_data(), words, strict=True))
    assert {path.name for path in tmp_path.iterdir()} == {
        *GQA_BENCHMARK.output_files,
        "testdev_balanced_questions.json",
    }
    # eval.py compares text with text.
    assert sum(predictions[id_] == row["answer"] for id_, row in _data().items()) == 4


def test_the_command_scores_an_answers_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path, _data())
    GQA_BENCHMARK.write(tmp_path, _read(tmp_path, _data()), ANSWERS, model="m")
    assert not score(["gqa", "--questions", str(path), "--answers", str(tmp_path / "answers.jsonl")])
    assert json.loads(capsys.readouterr().out)["accuracy/binary"] == 40


def test_unbalanced_questions_are_ignored(tmp_path: Path) -> None:
    data = _data()
    for row in list(data.values())[1:]:
        row["isBalanced"] = False
    assert [row.right for row in _read(tmp_path, data).rows] == ["red"]
    data["200000"]["isBalanced"] = False
    with pytest.raises(AnswerError, match=r"testdev_balanced_questions\.json: holds no balanced question"):
        _read(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "'answer' must be a text that is not empty, found null"),
        ({"question": " "}, "'question' must be a text that is not empty"),
        ({"imageId": 7}, "'imageId' must be a text that is not empty, found 7"),
        ({"imageId": "../n1"}, "image '../n1.jpg' must be a path inside the folder of images"),
        ({"types": {"structural": "open"}}, "types.structural 'open' is none of query, verify"),
        ({"types": None}, "types.structural None is none of query, verify"),
        ({"question": "Is it <end_of_turn>?"}, "holds <end_of_turn>"),
    ],
)
def test_a_damaged_question_is_refused_with_file_and_id(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = _data()
    data["200002"].update(change)
    with pytest.raises(AnswerError) as refused:
        _read(tmp_path, data)
    assert str(refused.value).startswith(f"{tmp_path / 'testdev_balanced_questions.json'}, question 200002: {message}")


def test_files_with_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match=r"testdev_balanced_questions\.json: needs an object of question ids"):
        _read(tmp_path, [])
    with pytest.raises(AnswerError, match=r"question a: needs an object, found \[1\]"):
        _read(tmp_path, {"a": [1]})
    path = _write(tmp_path, _data())
    path.write_text(path.read_text()[:-9])
    with pytest.raises(AnswerError, match="no JSON"):
        GQA_BENCHMARK.read({"questions": path, "images": Path("images")}, Options())
