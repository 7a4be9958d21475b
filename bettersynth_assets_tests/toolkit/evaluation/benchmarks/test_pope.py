"""POPE: its three files, and the rule and five figures of the official script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.evaluation.benchmarks.pope import INSTRUCTION, POPE_BENCHMARK, SETS
from toolkit.evaluation.benchmarks.protocol import Options, Questions
from toolkit.questions.answer_files import AnswerError


def _write(folder: Path, sets: dict[str, str]) -> Path:
    """Write files with labels given as letters, y and n; six questions about each image."""
    folder.mkdir(exist_ok=True)
    for name, labels in sets.items():
        rows = [
            {
                "question_id": number + 1,
                "image": f"COCO_val2014_{number // 6:012d}.jpg",
                "text": f"Is there a thing {number} in the image?",
                "label": {"y": "yes", "n": "no"}[label],
            }
            for number, label in enumerate(labels)
        ]
        (folder / f"coco_pope_{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _read(folder: Path) -> Questions:
    return POPE_BENCHMARK.read({"questions": folder, "images": Path("val2014")}, Options())


def _values(questions: Questions, answers: list[str]) -> dict[str, float]:
    return {metric.name: metric.value for metric in POPE_BENCHMARK.score(questions, answers).metrics}


def test_sets_are_read_in_the_published_order_with_llavas_prompts(tmp_path: Path) -> None:
    questions = _read(_write(tmp_path, {"adversarial": "ny", "popular": "yn", "random": "yn"}))
    assert [row.id for row in questions.rows] == [f"{name}/{number}" for name in SETS for number in (1, 2)]
    assert [row.right for row in questions.rows] == ["Yes", "No", "Yes", "No", "No", "Yes"]
    assert questions.rows[0].text == f"Is there a thing 0 in the image?\n{INSTRUCTION}"
    assert questions.rows[0].image == Path("val2014/COCO_val2014_000000000000.jpg")
    assert questions.protocol == "POPE, single word or phrase"
    assert [prompt.candidates for prompt in POPE_BENCHMARK.prompts(questions)[:2]] == [("Yes", "No"), ("No", "Yes")]
    (tmp_path / "coco_pope_popular.json").unlink()
    assert _read(tmp_path).protocol == "POPE, without popular, single word or phrase"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "Yes"), ("No", "No"), ("no", "No"), ("No, there is none", "No"), ("There is not", "No"), ("", "Yes"),
        ("Yes. No, wait", "Yes"), ("NO", "Yes"), ("None", "Yes"), ("No.", "No"), ("perhaps", "Yes"), ("I, no", "No"),
        ("line\nno", "Yes"),
    ],
)  # fmt: skip
def test_an_answer_is_no_if_its_first_sentence_contains_a_negation(tmp_path: Path, text: str, said: str) -> None:
    question = _read(_write(tmp_path, {"random": "y"})).rows[0]
    assert POPE_BENCHMARK.parse(question, text) == said


def test_figures_equal_a_case_computed_by_hand(tmp_path: Path) -> None:
    questions = _read(_write(tmp_path, {"random": "yyynnn", "adversarial": "yn"}))
    # random: TP 2, FN 1, FP 1, TN 2. adversarial: yes to both, TP 1, FP 1.
    answers = ["yes", "Yes", "no", "no", "No", "yes", "yes", "yes"]
    values = _values(questions, answers)
    third = pytest.approx(200 / 3)
    assert [values[f"{name}/random"] for name in ("accuracy", "precision", "recall", "f1")] == [third] * 4
    assert (values["yes_ratio/random"], values["yes_ratio/adversarial"], values["yes_ratio"]) == (50, 100, 62.5)
    assert (values["precision/adversarial"], values["recall/adversarial"]) == (50, 100)
    assert values["f1/adversarial"] == pytest.approx(200 / 3)
    assert (values["accuracy"], values["recall"]) == (62.5, pytest.approx((200 / 3 + 100) / 2))
    scored = POPE_BENCHMARK.score(questions, answers)
    assert [m.name for m in scored.metrics[:5]] == ["accuracy", "f1", "precision", "recall", "yes_ratio"]
    assert [m.n for m in scored.metrics] == [8] * 5 + [6] * 5 + [2] * 5
    assert scored.right == [1, 1, 0, 1, 1, 0, 1, 0]


def test_all_figures_equal_those_of_a_second_implementation_of_the_published_rule(tmp_path: Path) -> None:
    labels = dict.fromkeys(SETS, "yn" * 9)
    questions = _read(_write(tmp_path, labels))
    words = ("Yes", "No", "yes, sure", "It is not.", "no. Yes", "Yes. Not")
    answers = [words[(5 * i + i // 7) % len(words)] for i in range(len(questions.rows))]
    values = _values(questions, answers)
    for at, name in enumerate(SETS):
        positives = []
        for text in answers[18 * at : 18 * at + 18]:
            sentence = text[: text.index(".")] if "." in text else text
            positives.append(not any(word in ("No", "no", "not") for word in sentence.replace(",", "").split(" ")))
        cells = list(zip(positives, [label == "y" for label in labels[name]], strict=True))
        tp, fp, fn = cells.count((True, True)), cells.count((True, False)), cells.count((False, True))
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        wanted = {
            "accuracy": (tp + cells.count((False, False))) / len(cells),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall),
            "yes_ratio": sum(positives) / len(cells),
        }
        assert {key: values[f"{key}/{name}"] for key in wanted} == pytest.approx(
            {k: 100 * v for k, v in wanted.items()}
        )
    assert values["f1"] == pytest.approx(sum(values[f"f1/{name}"] for name in SETS) / 3)


def test_figures_equal_those_that_the_official_script_prints(tmp_path: Path) -> None:
    """Values printed by evaluate.py of AoiDragon/POPE (08d957b) for the same answers and labels."""
    questions = _read(_write(tmp_path, dict.fromkeys(SETS, "yn" * 9)))
    words = ("Yes", "No", "yes, sure", "It is not.", "no. Yes", "Yes. Not")
    answers = [words[(5 * i + i // 7) % len(words)] for i in range(len(questions.rows))]
    values = _values(questions, answers)
    names = ("accuracy", "precision", "recall", "f1", "yes_ratio")
    half = (0.5, 0.5, 0.5555555555555556, 0.5263157894736842, 0.5555555555555556)
    popular = (0.5555555555555556, 0.5454545454545454, 0.6666666666666666, 0.6, 0.6111111111111112)
    for part, official in zip(SETS, (half, popular, half), strict=True):
        found = [values[f"{name}/{part}"] for name in names]
        assert found == pytest.approx([100 * value for value in official], abs=1e-8)


def test_figures_are_defined_for_a_model_that_always_says_no(tmp_path: Path) -> None:
    values = _values(_read(_write(tmp_path, {"random": "yn"})), ["no", "no"])
    assert [values[name] for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [50, 0, 0, 0, 0]


def test_files_in_another_format_than_pope_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match=r"holds no file like coco_pope_random\.json"):
        _read(tmp_path)
    folder = _write(tmp_path / "a", {"random": "yn"})
    text = (folder / "coco_pope_random.json").read_text()
    (folder / "gqa_pope_random.json").write_text(text)
    with pytest.raises(AnswerError, match="are the same set"):
        _read(folder)
    (folder / "gqa_pope_random.json").unlink()
    (folder / "coco_pope_random.json").write_text(text.replace('"no"', '"maybe"'))
    with pytest.raises(AnswerError, match=r"question 2: label 'maybe' is neither yes nor no"):
        _read(folder)
