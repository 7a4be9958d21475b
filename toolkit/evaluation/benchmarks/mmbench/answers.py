"""Existing predictions. In: an answers file or an upload table. Out: predictions per row and rotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS
from toolkit.evaluation.benchmarks.mmbench.metric import Prediction
from toolkit.questions.answer_files import AnswerError, id_text, read_lines

if TYPE_CHECKING:
    import pandas as pd


def of_upload(path: Path, upload: pd.DataFrame) -> list[Prediction]:
    """Predictions of an upload table.

    Raises:
        AnswerError: no column ``prediction``, or rows without one.
    """
    if "prediction" not in upload:
        raise AnswerError(f"{path}: column 'prediction' is missing; it has {', '.join(upload.columns)}")
    empty = upload[upload["prediction"].str.strip() == ""]
    if len(empty):
        raise AnswerError(
            f"{path}: {len(empty)} of {len(upload)} rows have no prediction (first: index {empty['index'].iloc[0]}); "
            "if the model did answer nothing there, score its answers file (.jsonl), which tells the two apart"
        )
    return [Prediction(*row) for row in zip(upload["index"], upload["prediction"], strict=True)]


def of_answers(path: Path) -> list[Prediction]:
    """Predictions of an answers file, one per row or one per rotation of a row's options.

    Raises:
        AnswerError: a row that cannot be used; names the question.
    """
    found = []
    for row in read_lines(path, ("question_id", "text"), texts=("text",)):
        index = id_text(row["question_id"], where=f"{path}: 'question_id'")
        turn = _turn(row, f"{path}: question {index}")
        given = row.get("option_char", "" if turn else LETTERS)
        letters = "".join(given) if isinstance(given, str) or _all_texts(given) else ""
        if not letters or not set(letters) <= set(LETTERS) or len(set(letters)) < len(letters):
            raise AnswerError(f"{path}: question {index}, turn {turn}: needs 'option_char', letters of {LETTERS}")
        found.append(Prediction(index, row["text"], turn, letters))
    return found


def _turn(row: dict[str, Any], where: str) -> int:
    turn = row.get("round_id", 0)
    turn = int(turn) if isinstance(turn, str) and turn.isdecimal() else turn
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 0:
        raise AnswerError(f"{where}: 'round_id' must be a whole number from 0; found {json.dumps(turn)}")
    return turn


def _all_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
