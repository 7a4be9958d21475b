"""Chance levels of all benchmarks, on questions whose levels follow by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from toolkit.evaluation.benchmarks import BENCHMARKS, chance
from toolkit.evaluation.benchmarks.gqa import GQA_BENCHMARK
from toolkit.evaluation.benchmarks.mmbench.benchmark import MMBENCH
from toolkit.evaluation.benchmarks.mme import MME_BENCHMARK
from toolkit.evaluation.benchmarks.pope import POPE_BENCHMARK
from toolkit.evaluation.benchmarks.protocol import Benchmark, Question, Questions
from toolkit.evaluation.benchmarks.textvqa.benchmark import TEXTVQA
from toolkit.evaluation.benchmarks.textvqa.metric import answer_score, answer_scores


def question(id_: str, right: str = "A", options: Sequence[str] = (), **fields: object) -> Question:
    return Question(id=id_, image=Path("i.png"), text="?", right=right, options=tuple(options), fields=fields)


def of(benchmark: Benchmark, *rows: Question) -> dict[str, float]:
    return dict(benchmark.chance(Questions(rows=rows, protocol="p")))


def test_mmbench_needs_all_rotations_of_a_question_right() -> None:
    four = [question(f"{turn}000007", options="ABCD") for turn in range(4)]
    two = [question(f"{turn}000008", options="AB") for turn in range(2)]
    assert of(MMBENCH, *four) == {"accuracy": 100 / 4**4, "row_accuracy": 25}
    assert of(MMBENCH, *four, *two) == pytest.approx({"accuracy": 50 * (4**-4 + 2**-2), "row_accuracy": 100 / 3})
    assert of(MMBENCH, four[0], two[0])["accuracy"] == 37.5  # one order of options: 1/k


def test_textvqa_is_compared_with_the_best_constant_answer() -> None:
    rows = [
        question("a", humans=["stop"] * 2 + ["Halt"] * 8),
        question("b", humans=["Stop."] * 10),
        question("c", humans=["exit"] * 10),
    ]
    # Two of ten humans: left out are 8 of the others, 2/3 each, and 2 of the same, 1/3 each.
    assert of(TEXTVQA, *rows) == {"accuracy": pytest.approx(100 * (1 + (8 * 2 / 3 + 2 / 3) / 10) / 3)}


def test_scores_of_all_human_answers_equal_those_of_each() -> None:
    humans = ["A stop", "stop", "stop", "Two", "2", "halt", "halt", "halt", "halt!", "no"]
    assert answer_scores(humans) == {
        text: answer_score(text, humans) for text in ("stop", "2", "halt", "no")
    }  # fmt: skip


def test_gqa_is_compared_with_the_best_constant_answer_of_each_part() -> None:
    kinds = [
        ("query", "red"),
        ("query", "red"),
        ("query", "two"),
        ("verify", "yes"),
        ("verify", "no"),
        ("logical", "yes"),
    ]
    rows = [question(str(at), right, structural=kind) for at, (kind, right) in enumerate(kinds)]
    assert of(GQA_BENCHMARK, *rows) == pytest.approx(
        {"accuracy": 100 / 3, "accuracy/open": 200 / 3, "accuracy/binary": 200 / 3, "accuracy/query": 200 / 3,
         "accuracy/verify": 50, "accuracy/logical": 100}
    )  # fmt: skip
    assert of(GQA_BENCHMARK, question("1", "Red", structural="query"))["accuracy"] == 0  # no answer counts as right


def test_yes_no_questions_are_guessed_half_the_time() -> None:
    rows = [
        question(str(at), "Yes", ("Yes", "No"), set=name) for at, name in enumerate(("random", "random", "popular"))
    ]
    assert of(POPE_BENCHMARK, *rows) == {"accuracy": 50, "accuracy/random": 50, "accuracy/popular": 50}
    rows = [
        question(f"{task}/{image}", right, ("Yes", "No"), task=task)
        for task in ("existence", "count", "code_reasoning")
        for image in ("a", "b")
        for right in ("Yes", "No")
    ]
    levels = of(MME_BENCHMARK, *rows)
    assert {name: levels[name] for name in ("score", "perception", "cognition", "accuracy", "accuracy_plus")} == {
        "score": 225, "perception": 150, "cognition": 75, "accuracy": 50, "accuracy_plus": 25,
    }  # fmt: skip
    assert (levels["score/count"], levels["accuracy/count"], levels["accuracy_plus/count"]) == (75, 50, 25)


def test_no_questions_with_a_score_are_a_level_of_zero() -> None:
    assert chance.of_constant_answer([{}, {}]) == 0


def test_every_level_belongs_to_a_metric_of_the_benchmark(tmp_path: Path) -> None:
    data = {"1": {"imageId": "n", "question": "Is it?", "answer": "yes", "types": {"structural": "verify"}}}
    path = tmp_path / "q.json"
    path.write_text(json.dumps(data))
    questions = GQA_BENCHMARK.read({"questions": path, "images": tmp_path}, None)
    names = [metric.name for metric in GQA_BENCHMARK.score(questions, ["yes"]).metrics]
    assert list(GQA_BENCHMARK.chance(questions)) == names


def test_a_benchmark_states_no_level_by_default() -> None:
    class Other(type(POPE_BENCHMARK)):  # type: ignore[misc]
        name = "other"
        chance = Benchmark.chance

    assert of(Other(), question("1", options="AB")) == {}
    assert all(type(BENCHMARKS.get(name)).chance is not Benchmark.chance for name in BENCHMARKS.names())
