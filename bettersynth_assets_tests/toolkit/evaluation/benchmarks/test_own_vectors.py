"""Metrics compared with vectors computed by hand, for machines without the reference's real ones (test_metrics.py)."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from bettersynth_assets_tests.helpers.drawn_seed import draw
from toolkit.evaluation import score
from toolkit.evaluation.benchmarks.mmbench.table import prompt as mmbench_prompt
from toolkit.evaluation.benchmarks.mmbench.table import read_table
from toolkit.evaluation.benchmarks.mmbench.upload import upload_table, write_upload
from toolkit.evaluation.benchmarks.textvqa import metric as textvqa
from toolkit.evaluation.benchmarks.textvqa.answer_processing import process_answer

PROCESSED = {
    # punctuation that occurs next to a space is removed everywhere; otherwise it becomes a space
    "A red-and-white sign": "red and white sign",
    "red - white": "red white",
    "well-known - yes": "wellknown yes",
    "yes!": "yes",
    "yes! no": "yes no",
    "yes!no": "yes no",
    "what's this?": "what 's this",
    "<html>": "html",
    "x=1": "x 1",
    "C++": "c",
    "@home": "home",
    "(none)": "0",
    "a_b": "b",
    "Coca-Cola": "coca cola",
    "10/12/2020": "10 12 2020",
    "[exit]": "exit",
    'the "best"': "best",
    # commas and question marks are removed first, and 's is split off
    "1,000 cats": "1000 cats",
    "1,000 red-hot": "1000 red hot",
    "cats,dogs": "catsdogs",
    # a full stop is kept only before a digit
    "$5.00": "$5.00",
    "St. Louis": "st louis",
    "3.": "3",
    "e.g. this": "eg this",
    "www.example.com": "wwwexamplecom",
    "v1.2b": "v1.2b",
    # other signs are kept
    "5:30 pm": "5:30 pm",
    "100%": "100%",
    "rock 'n' roll": "rock 'n' roll",
    "#1 & 2*": "#1 & 2*",
    # numbers from none to ten, articles, case, white space
    "two apples and ten pears": "2 apples and 10 pears",
    "Zero": "0",
    "NONE": "0",
    "eleven": "eleven",
    "One two three four five": "1 2 3 4 5",
    "six seven eight nine": "6 7 8 9",
    "the the a an": "",
    "The Answer": "answer",
    "another theme": "another theme",
    "\tYES\n": "yes",
    "two\nlines": "2 lines",
    "  many   spaces ": "many spaces",
    "": "",
    # contractions
    "isnt": "isn't",
    "wont": "won't",
    "whos there": "who's there",
    "youre": "you're",
    "it's": "it 's",
    # not ASCII
    "Café Zoë": "café zoë",
    "南山": "南山",
}


def test_answers_are_normalised_by_the_rules() -> None:
    assert {raw: process_answer(raw) for raw in PROCESSED} == PROCESSED


@pytest.mark.parametrize(
    ("agreeing", "expected"),
    # Of k people who agree, k see k - 1 others and 10 - k see k; each counts min(1, seen / 3).
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (5, 1.0), (9, 1.0), (10, 1.0)],
)
def test_an_answer_is_scored_by_how_many_people_gave_it(agreeing: int, expected: float) -> None:
    humans = ["Two dogs."] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    for places in (humans, humans[::-1]):
        assert textvqa.answer_score("2 dogs", places) == pytest.approx(expected)


def test_the_score_of_a_set_is_the_mean_over_its_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agreeing = (10, 3, 2, 1, 0)
    data = [
        {"image_id": f"i{n}", "question": f"Question {n}?", "answers": ["yes"] * k + ["no"] * (10 - k)}
        for n, k in enumerate(agreeing)
    ]
    (tmp_path / "annotations.json").write_text(
        json.dumps({"dataset_version": "0.5.1", "dataset_type": "val", "data": data})
    )
    lines = [{"question_id": f"i{n}", "prompt": f"Question {n}?", "text": "Yes."} for n in range(5)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ["--annotations", str(tmp_path / "annotations.json"), "--answers", str(tmp_path / "answers.jsonl")]
    assert score.main(["textvqa", *files]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["accuracy"], result["n"]) == (56.0, 5)  # (1 + 0.9 + 0.6 + 0.3 + 0) / 5


Group = tuple[int, list[str]]
GROUPS: list[Group] = [  # options of the question, answer of each turn; R is the correct letter
    (4, ["R", "R", "R", "R"]),  # right
    (4, ["R", "R", "R", "W"]),  # one turn wrong
    (4, ["R.", "(R)", "R: so it is", "R"]),  # correct, in other forms
    (4, ["The answer is R"] * 4),  # unparsed
    (4, ["A", "A", "A", "A"]),  # always the same letter: correct in one turn
    (2, ["R", "R"]),  # right
    (3, ["none of them"] * 3),  # unparsed
    (3, ["r", "r", "r"]),  # small letters: unparsed
    (4, ["R, W", "R,W", "R. or W.", "A,B,C,D"]),  # several letters: unparsed
]
RIGHT, ROWS_RIGHT, ROWS, UNPARSED = 3, 4 + 3 + 4 + 1 + 2, 5 * 4 + 2 + 3 + 3 + 4, 4 + 3 + 3 + 4


def _table() -> pd.DataFrame:
    """Return circular groups in the official layout, each row with a generated image and the model's prediction."""
    rows: list[dict[str, Any]] = []
    for number, (count, answers) in enumerate(GROUPS):
        options = [f"thing {number}-{place}" for place in range(count)]
        picture = io.BytesIO()
        draw(number).resize((48, 32)).save(picture, "JPEG")
        for turn, answer in enumerate(answers):
            cells = options[-turn:] + options[:-turn] if turn else options
            right = "ABCD"[cells.index(options[number % count])]
            wrong = next(letter for letter in "ABCD"[:count] if letter != right)
            said = answer.replace("R", right).replace("W", wrong)
            said = said.replace("r", right.lower()) if answer == "r" else said
            rows.append(
                {
                    "index": number + turn * 1_000_000, "question": f"Which is {number}?", "hint": "nan",
                    **dict(zip("ABCD", [*cells, "", ""], strict=False)), "answer": right, "category": "drawn",
                    "split": "dev", "image": base64.b64encode(picture.getvalue()).decode(), "prediction": said,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).fillna("")


def test_circular_groups_get_the_same_score_in_every_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table().astype(str)
    table.to_csv(tmp_path / "predictions.tsv", sep="\t", index=False)
    table.drop(columns="prediction").to_csv(tmp_path / "bench.tsv", sep="\t", index=False)
    lines = [{"question_id": int(i), "text": t} for i, t in zip(table["index"], table["prediction"], strict=True)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_upload(upload_table(table, list(table["prediction"])), tmp_path / "upload")
    results = []
    for file, *more in (
        ["predictions.tsv"],
        ["answers.jsonl", "--questions", str(tmp_path / "bench.tsv")],
        ["upload.xlsx", "--questions", str(tmp_path / "bench.tsv")],
    ):
        assert score.main(["mmbench", "--predictions", str(tmp_path / file), *more]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0] == results[1] == results[2]
    result = results[0]
    assert (result["right"], result["n"], result["rows"]) == (RIGHT, len(GROUPS), ROWS) == (3, 9, 32)
    assert result["unparsed"] == UNPARSED == 14
    assert result["row_accuracy"] == pytest.approx(100 * ROWS_RIGHT / ROWS) == pytest.approx(43.75)


def test_prompts_and_images_are_read_from_the_official_layout(tmp_path: Path) -> None:
    _table().drop(columns="prediction").to_csv(tmp_path / "bench.tsv", sep="\t", index=False)
    table = read_table(tmp_path / "bench.tsv")
    assert len(table) == ROWS
    for row in table.to_dict("records"):
        options = [f"{letter}. {row[letter]}" for letter in "ABCD" if row[letter]]
        assert mmbench_prompt(row) == "\n".join([row["question"], *options]) and len(options) >= 2
        with Image.open(io.BytesIO(base64.b64decode(row["image"]))) as image:
            assert image.size == (48, 32)
