"""Sample budget and format conversion, compared with the kit's semantics."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bettersynth_assets_tests.helpers.drawn_seed import ROWS, row
from bettersynth_assets_tests.helpers.paths import SHARED
from toolkit.preprocess import check_global_batch_size, check_sample_number, dj_to_llava
from toolkit.preprocess.check_sample_number import BudgetError, fill_budget

SEED_800 = SHARED / "better-synth-seed-800"


def _kit(rows: list[str], budget: int) -> list[str]:
    """Do what the third-place team's script does, on the rows and with the global generator."""
    random.seed(1024)
    if len(rows) > budget:
        return random.sample(rows, budget)
    filled: list[str] = []
    while len(filled) < budget:
        filled += random.sample(rows, min(budget - len(filled), len(rows)))
    return filled


@pytest.mark.parametrize(("count", "budget"), [(1000, 10), (1000, 999), (40, 40), (40, 150), (1, 5), (25, 6)])
def test_the_budget_equals_the_original_calls_of_random_sample(count: int, budget: int) -> None:
    rows = [f"row {i}" for i in range(count)]
    assert [rows[i] for i in fill_budget(count, budget)] == _kit(rows, budget)


def test_too_few_rows_are_repeated_in_shuffled_passes_with_a_partial_last_one() -> None:
    chosen = fill_budget(40, 150)
    passes = [chosen[i : i + 40] for i in range(0, 120, 40)]
    assert all(sorted(p) == list(range(40)) for p in passes) and passes[0] != passes[1]
    assert len(set(chosen[120:])) == 30


def test_order_keep_equals_the_original_kit() -> None:
    assert fill_budget(40, 150, order="keep") == list(range(40))
    assert fill_budget(150, 40, order="keep") == fill_budget(150, 40)


def test_errors_of_the_budget_name_the_value() -> None:
    with pytest.raises(BudgetError, match="budget 0"):
        fill_budget(5, 0)
    with pytest.raises(BudgetError, match="no rows left"):
        fill_budget(0, 5)
    with pytest.raises(BudgetError, match="'sorted'"):
        fill_budget(5, 5, order="sorted")  # type: ignore[arg-type]


def test_a_wrong_global_batch_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    good = ["pretrain", "--gpus", "8", "--per-gpu", "8", "--accumulation", "4"]
    assert check_global_batch_size.main(good) == 0
    for bad in (["finetune", *good[1:]], [*good[:-1], "3"], [*good[:-1], "0"]):
        with pytest.raises(SystemExit) as stopped:
            check_global_batch_size.main(bad)
        assert stopped.value.code == 2
    assert "= 256, not 128" in capsys.readouterr().err


def test_the_budget_command_keeps_lines_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"id": str(i), "text": f"a\u2028b {i}"}, ensure_ascii=False) for i in range(3)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    assert check_sample_number.main(["--input", str(tmp_path / "in.jsonl"), "--output", str(out), "--budget", "7"]) == 0
    assert out.read_text("utf-8").split("\n")[:-1] == _kit(lines, 7)
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "exposures": 7, "repeats": 2.33}


@pytest.mark.parametrize("token", ["<__dj__image>", "<image>"])
def test_a_kit_row_is_converted_to_a_llava_row_with_its_question(token: str) -> None:
    row = {"id": "006092514", "text": f"{token}\nA small dog <|__dj__eoc|>", "images": ["images/00609/006092514.jpg"]}
    questions = {"006092514": "Render a clear summary.\n<image>"}
    assert dj_to_llava.to_llava([row], questions) == [
        {
            "id": "006092514",
            "image": "images/00609/006092514.jpg",
            "conversations": [
                {"from": "human", "value": "Render a clear summary.\n<image>"},
                {"from": "gpt", "value": "A small dog"},
            ],
        }
    ]


def test_an_unknown_id_always_gets_the_same_of_the_11_questions_almost_uniformly() -> None:
    drawn = [dj_to_llava.question_for(f"{i:09d}") for i in range(11_000)]
    assert drawn[7] == dj_to_llava.question_for("000000007")
    counts = [drawn.count(f"<image>\n{q}") for q in dj_to_llava.QUESTIONS]
    assert sum(counts) == 11_000 and min(counts) > 850 and max(counts) < 1150


def test_errors_of_the_conversion_name_the_row() -> None:
    with pytest.raises(dj_to_llava.ConversionError, match=r"'a'.*exactly one image"):
        dj_to_llava.to_llava([{"id": "a", "text": "x", "images": ["1", "2"]}])
    with pytest.raises(dj_to_llava.ConversionError, match="'id' and 'text'"):
        dj_to_llava.to_llava([{"id": 5, "text": 5, "images": ["1"]}])
    with pytest.raises(dj_to_llava.ConversionError, match=r"'a'.*exactly one image, has \[None\]"):
        dj_to_llava.to_llava([{"id": "a", "text": "x", "images": [None]}])
    with pytest.raises(dj_to_llava.ConversionError, match="'b'"):
        dj_to_llava.to_kit([{"id": "b", "conversations": []}])


@pytest.mark.parametrize(
    ("content", "more", "fault"),
    [
        (None, [], "No such file"),
        ('{"id": "a", "text": "x", "images": ["1"]}\n{"id": 5', [], "row 2: invalid_json"),
        ("[1]", [], "row 1: not_an_object"),
        ('{"id": "a"}', ["--back"], "row 'a': needs one image"),
        ('{"id": "a", "text": "x", "images": ["1"]}', ["--questions"], "row 1 (id 'a'): needs an 'id'"),
        ('{"id": "a", "text": "\\ud83d", "images": ["1"]}', [], "row 1: invalid_utf8"),
    ],
)
def test_commands_name_the_file_that_they_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, more: list[str], fault: str
) -> None:
    source, questions = tmp_path / "in.jsonl", tmp_path / "stage_1.json"
    questions.write_text('[{"id": "a"}]')
    if content is not None:
        source.write_text(content)
    arguments = ["--input", str(source), "--output", str(tmp_path / "out"), *more]
    with pytest.raises(SystemExit) as stopped:
        dj_to_llava.main([*arguments, str(questions)] if more == ["--questions"] else arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"error: {source}") and fault in said
    assert not (tmp_path / "out").exists()


def test_the_budget_command_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        check_sample_number.main(["--input", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out.jsonl")])
    assert stopped.value.code == 2 and "none.jsonl" in capsys.readouterr().err


real = pytest.mark.skipif(not SEED_800.is_dir(), reason="the real seed rows are not on this machine")


@pytest.mark.parametrize("count", [ROWS, pytest.param(800, marks=real)])
def test_rows_are_unchanged_by_conversion_to_llava_and_back(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "seed.jsonl"
    if count == ROWS:
        source.write_text("".join(json.dumps(row(number)) + "\n" for number in range(ROWS)))
    else:
        source = next(SEED_800.glob("*.jsonl"))
    llava, back = tmp_path / "llava.json", tmp_path / "back.jsonl"
    assert dj_to_llava.main(["--input", str(source), "--output", str(llava)]) == 0
    assert dj_to_llava.main(["--input", str(llava), "--output", str(back), "--back"]) == 0
    rows = dj_to_llava.read_list(source)
    assert len(rows) == count
    assert dj_to_llava.read_list(back) == [{**one, "text": _canonical(one["text"])} for one in rows]
    assert f'"questions_drawn": {count}' in capsys.readouterr().out


def _canonical(text: str) -> str:
    return f"<__dj__image>\n{dj_to_llava.caption_of(text)} <|__dj__eoc|>"
