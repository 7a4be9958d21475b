"""MME: the layouts of the release, the rule and figures of the official tool, and its text files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from toolkit.evaluation.benchmarks.mme import COGNITION, INSTRUCTION, MME_BENCHMARK, PERCEPTION, TASKS
from toolkit.evaluation.benchmarks.protocol import Options, Questions, Scored
from toolkit.questions.answer_files import AnswerError

ASK = "Please answer yes or no."


def _picture(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _release(root: Path, tasks: dict[str, int]) -> Path:
    """Write subtasks with the given number of images each; posters are in two folders, as in the release."""
    for task, count in tasks.items():
        apart = task == "posters"
        texts, pictures = (root / task / name if apart else root / task for name in ("questions_answers_YN", "images"))
        for number in range(count):
            for folder in (texts, pictures):
                folder.mkdir(parents=True, exist_ok=True)
            (pictures / f"{number}.png").write_bytes(_picture(number))
            lines = [f"Is it {number}? {ASK}\tYes", f"Is it  {number + 1}?  {ASK}\tNo"]
            (texts / f"{number}.txt").write_text("\n".join(lines) + ("\n" if number else ""))
    return root


def _read(root: Path) -> Questions:
    return MME_BENCHMARK.read({"root": root}, Options())


def _reference(questions: Questions, answers: Sequence[str]) -> dict[str, float]:
    """A second implementation of the published rule: accuracy and accuracy+ per subtask over lines of pairs."""
    found: dict[str, float] = {}
    for task in TASKS:
        pairs: list[list[bool]] = []
        lines = [(q, a) for q, a in zip(questions.rows, answers, strict=True) if q.fields["task"] == task]
        for at, (question, text) in enumerate(lines):
            head = text.lower()
            head = head if head in ("yes", "no") else head[:4]
            said = next((word for word in ("yes", "no") if word in head), "other")
            if at % 2 == 0:
                pairs.append([])
            pairs[-1].append(said == question.right.lower())
        if pairs:
            flat = [right for pair in pairs for right in pair]
            found[task] = 100 * sum(flat) / len(flat) + 100 * sum(map(all, pairs)) / len(pairs)
    return found


def _values(scored: Scored) -> dict[str, float]:
    return {metric.name: metric.value for metric in scored.metrics}


def test_subtasks_are_read_from_both_layouts_with_llavas_prompts(tmp_path: Path) -> None:
    questions = _read(_release(tmp_path / "MME_Benchmark", {"color": 2, "posters": 1}).parent)
    assert [row.id for row in questions.rows] == ["color/0.png"] * 2 + ["color/1.png"] * 2 + ["posters/0.png"] * 2
    first = questions.rows[0]
    assert first.text == f"Is it 0?\n{INSTRUCTION}"
    assert [row.right for row in questions.rows] == ["Yes", "No"] * 3
    assert questions.rows[-1].image == tmp_path / "MME_Benchmark" / "posters" / "images" / "0.png"
    assert questions.protocol == "MME, 2 of 14 subtasks, single word or phrase"
    assert [prompt.candidates for prompt in MME_BENCHMARK.prompts(questions)[:2]] == [("Yes", "No"), ("No", "Yes")]


def test_parquet_files_give_the_same_questions_in_any_order(tmp_path: Path) -> None:
    wanted = _read(_release(tmp_path / "folders", {"color": 2, "OCR": 1}))
    rows: list[dict[str, Any]] = [
        {
            "question_id": row.id,
            "image": {"bytes": Path(str(row.image)).read_bytes(), "path": None},
            "question": row.fields["question"],
            "answer": row.right,
            "category": row.fields["task"],
        }
        for row in wanted.rows
    ]
    (tmp_path / "data").mkdir()
    rows = [*rows[::2], *rows[1::2]]
    for number, some in enumerate((rows[:3], rows[3:])):
        pq.write_table(pa.Table.from_pylist(some), tmp_path / "data" / f"test-{number}.parquet")
    found = _read(tmp_path)
    assert [(row.id, row.text, row.right) for row in found.rows] == [(r.id, r.text, r.right) for r in wanted.rows]
    assert [row.image for row in found.rows] == [Path(str(row.image)).read_bytes() for row in wanted.rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "Yes"), ("yes, it is", "Yes"), ("NO.", "No"), ("Not at all", "No"), ("I know", None), ("", None),
        ("a no", "No"), ("two", None), ("  yes", None), ("noyes", "No"), ("eyes", "Yes"), ("Nothing", "No"),
    ],
)  # fmt: skip
def test_an_answer_is_parsed_by_its_first_four_characters(tmp_path: Path, text: str, said: str | None) -> None:
    question = _read(_release(tmp_path, {"color": 1})).rows[0]
    assert MME_BENCHMARK.parse(question, text) == said


def test_figures_equal_a_case_computed_by_hand(tmp_path: Path) -> None:
    questions = _read(_release(tmp_path, {"color": 2, "OCR": 1, "code_reasoning": 1}))
    # color: both right; one right, one unparsed. OCR: yes to both. code_reasoning: both wrong.
    scored = MME_BENCHMARK.score(questions, ["yes", "no", "Yes.", "perhaps", "yes", "yes", "no", "yes"])
    values = _values(scored)
    assert values["score/color"] == 75 + 50 and values["score/OCR"] == 50 and values["score/code_reasoning"] == 0
    assert (values["perception"], values["cognition"], values["score"]) == (175, 0, 175)
    assert (values["accuracy"], values["accuracy_plus"]) == (50, 25)
    headline = scored.metrics[0]
    assert (headline.name, headline.n, headline.unparsed) == ("score", 8, 1)
    assert [m.n for m in scored.metrics if m.name in ("perception", "cognition", "accuracy_plus")] == [6, 2, 4]
    assert scored.right == [1, 1, 1, 0, 1, 0, 0, 0]
    assert scored.notes == {
        "absent_subtasks": [task for task in TASKS if task not in ("color", "OCR", "code_reasoning")]
    }


def test_all_figures_equal_those_of_a_second_implementation_of_the_published_rule(tmp_path: Path) -> None:
    questions = _read(_release(tmp_path, dict.fromkeys(TASKS, 3)))
    words = ("Yes", "No", "no.", "maybe", "YES, of course", "not")
    answers = [words[(7 * i + i // 5) % len(words)] for i in range(len(questions.rows))]
    wanted, values = _reference(questions, answers), _values(MME_BENCHMARK.score(questions, answers))
    assert len(set(wanted.values())) > 2
    assert {task: values[f"score/{task}"] for task in TASKS} == pytest.approx(wanted)
    assert values["perception"] == pytest.approx(sum(wanted[task] for task in PERCEPTION))
    assert values["cognition"] == pytest.approx(sum(wanted[task] for task in COGNITION))
    perfect = _values(MME_BENCHMARK.score(questions, [row.right for row in questions.rows]))
    assert (perfect["perception"], perfect["cognition"], perfect["score"]) == (2000, 800, 2800)


def test_scores_equal_those_that_the_official_tool_computes_from_the_written_files(tmp_path: Path) -> None:
    """Values printed by calculation.py of eval_tool.zip (BradyFU/Awesome-Multimodal-Large-Language-Models, 1c1d69e)."""
    questions = _read(_release(tmp_path, dict.fromkeys(TASKS, 3)))
    words = ("Yes", "No", "no.", "maybe", "YES, of course", "not")
    answers = [words[(7 * i + i // 5) % len(words)] for i in range(len(questions.rows))]
    values = _values(MME_BENCHMARK.score(questions, answers))
    low, middle, high = 33.33333333333333, 66.66666666666666, 83.33333333333333
    official = [high, high, low, middle, low, high, high, low, middle, low, high, high, low, middle]
    assert [values[f"score/{task}"] for task in TASKS] == pytest.approx(official, abs=2e-8)
    assert (values["perception"], values["cognition"]) == pytest.approx((600, 266.66666666666663), abs=2e-7)


def test_texts_for_the_official_tool_have_one_line_of_four_columns_per_question(tmp_path: Path) -> None:
    questions = _read(_release(tmp_path / "mme", {"color": 1, "posters": 1}))
    MME_BENCHMARK.write(tmp_path, questions, ["Yes", "two\nlines\tand a tab", "no", ""], model="m")
    assert (tmp_path / "Your_Results" / "color.txt").read_text() == (
        f"0.png\tIs it 0? {ASK}\tYes\tYes\n0.png\tIs it  1?  {ASK}\tNo\ttwo lines and a tab\n"
    )
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt") if "mme" not in path.parts}
    assert written == {"Your_Results/color.txt", "Your_Results/posters.txt"} <= set(MME_BENCHMARK.output_files)


def test_files_in_another_format_than_mme_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AnswerError, match="holds no folder of a subtask"):
        _read(tmp_path)
    root = _release(tmp_path / "a", {"color": 1})
    (root / "color" / "0.txt").write_text(f"Is it? {ASK}\tYes\n")
    with pytest.raises(AnswerError, match=r"color/0\.png has 1 questions"):
        _read(root)
    (root / "color" / "0.txt").write_text("Is it?\tYes\nIs it?\tmaybe\n")
    with pytest.raises(AnswerError, match=r"0\.txt: 'Is it\?', 'maybe' in 'color'"):
        _read(root)
    (root / "color" / "0.png").unlink()
    with pytest.raises(AnswerError, match="no image 0 of"):
        _read(root)
