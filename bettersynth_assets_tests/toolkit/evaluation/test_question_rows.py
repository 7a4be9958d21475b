"""Rows per question: ids, images, log-probabilities; and the metrics computed from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.evaluation.benchmarks.protocol import Question, Questions
from toolkit.evaluation.question_rows import likelihood_metrics, question_rows
from toolkit.questions.prompts import Answer, CandidateScore

FOLDER = Path("set")


def _question(id_: str, image: Path | bytes, right: str = "two words", options: tuple[str, ...] = ()) -> Question:
    return Question(id=id_, image=image, text="What?", right=right, options=options)


def _answer(*scores: tuple[str, float, int]) -> Answer:
    candidates = (CandidateScore(text, value, tokens, len(text)) for text, value, tokens in scores)
    return Answer("said", tuple(candidates))


def test_questions_with_the_same_id_get_separate_rows_and_equal_images_one_cluster() -> None:
    images: list[Path | bytes] = [FOLDER / "images" / "a" / "1.jpg", b"pixels", b"pixels", b"other", Path("x/2.jpg")]
    questions = Questions(
        rows=[_question("i" if n < 2 else str(n), image) for n, image in enumerate(images)], protocol=""
    )
    rows = question_rows(questions, [_answer()] * 5, [0.0] * 5, [FOLDER, FOLDER / "images"])
    assert [row.question_id for row in rows] == ["i", "i#2", "2", "3", "4"]
    clusters = [row.cluster_id for row in rows]
    assert (clusters[0], clusters[4]) == ("a/1.jpg", "2.jpg")  # the innermost folder is used
    assert clusters[1] == clusters[2] != clusters[3] and len(clusters[1]) == 16
    assert rows[0].log_probability is None and rows[0].options == {}


def test_a_row_has_the_scores_of_the_correct_answer_and_of_each_option() -> None:
    questions = Questions(rows=[_question("q", b"", right="B", options=("A", "B"))], protocol="P")
    (row,) = question_rows(questions, [_answer(("B", -0.5, 1), ("A", -2.0, 1))], [1.0], [])
    assert row.values() == {
        "question_id": "q", "cluster_id": row.cluster_id, "answer": "said", "right": 1.0, "log_probability": -0.5,
        "tokens": 1, "characters": 1, "options": {"A": -2.0, "B": -0.5},
    }  # fmt: skip


def test_likelihoods_are_means_per_token_and_per_character_of_the_correct_answer() -> None:
    questions = Questions(rows=[_question("1", b""), _question("2", b""), _question("3", b"", right="")], protocol="P")
    answers = [_answer(("two words", -3.0, 2)), _answer(("two words", -6.0, 3)), _answer()]
    metrics = likelihood_metrics(question_rows(questions, answers, [0.0] * 3, []), "P")
    assert [(metric.name, metric.n, metric.protocol) for metric in metrics] == [
        ("log_probability_per_token", 2, "P, nats"), ("log_probability_per_character", 2, "P, nats"),
    ]  # fmt: skip
    assert [metric.value for metric in metrics] == [pytest.approx(-1.75), pytest.approx(-0.5)]
    assert likelihood_metrics(question_rows(questions, [_answer()] * 3, [0.0] * 3, []), "P") == []
