"""MMBench's prompt and metric. In: the official TSV, and predictions in its upload layout. Out: CircularEval accuracy.

A question's rotations are rows of their own with the same ``index % 1000000``; it counts only when every rotation is
answered right. What names no option is counted as ``unparsed`` and is wrong; it is never guessed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from toolkit.evaluate.answer_files import AnswerError

LETTERS = "ABCD"
GROUP = 1_000_000
INSTRUCTION = "Answer with the option's letter from the given choices directly."
_LETTER = re.compile(r"\s*\(?([A-D])(?:\s*$|[.):,])")
_EMPTY = {"", "nan", "none"}
_UPLOAD = ("index", "question", *LETTERS, "prediction", "answer", "split")


def read_table(path: Path) -> pd.DataFrame:
    """Read a benchmark or prediction table (``.tsv`` or ``.xlsx``); every cell is text, an empty one is ``""``.

    Raises:
        AnswerError: no rows, or no column ``index`` of whole numbers.
    """
    if path.suffix == ".xlsx":
        table = pd.read_excel(path, dtype=str, keep_default_na=False)
    else:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if "index" not in table or not len(table) or not table["index"].str.fullmatch(r"\d+").all():
        raise AnswerError(f"{path}: needs rows with a column 'index' of whole numbers")
    return table


def pictures(table: pd.DataFrame) -> dict[str, bytes]:
    """Bytes of each row's picture by index; a cell may name another row's index instead of holding base64.

    Raises:
        AnswerError: no column ``image``, a cell that is no base64, or a reference to a row that has no picture.
    """
    if "image" not in table:
        raise AnswerError(f"column 'image' is missing; it has {', '.join(table.columns)}")
    cells: dict[str, str] = dict(zip(table["index"], table["image"], strict=True))
    found = {}
    for index, cell in cells.items():
        try:
            found[index] = base64.b64decode(cells.get(cell, cell), validate=True)
        except binascii.Error as error:
            raise AnswerError(f"row {index}: its image is no base64 ({error})") from error
        if not found[index]:
            raise AnswerError(f"row {index}: has no image")
    return found


def options_of(row: Mapping[Any, str]) -> list[str]:
    """Texts of the options, A first, up to the first empty one."""
    options: list[str] = []
    for letter in LETTERS:
        text = row.get(letter, "")
        if text.strip().lower() in _EMPTY:
            break
        options.append(text)
    return options


def prompt(row: Mapping[Any, str]) -> str:
    """Hint if there is one, question, one line per option: what an answers file calls the prompt."""
    hint = row.get("hint", "")
    lines = [] if hint.strip().lower() in _EMPTY else [hint]
    lines.append(row["question"])
    lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, options_of(row), strict=False)]
    return "\n".join(lines)


def parse_letter(prediction: str, options: int = len(LETTERS)) -> str | None:
    """The option letter that an answer begins with (``B``, ``B.``, ``(B) text``), or None.

    Args:
        prediction: the model's answer.
        options: how many there are; a letter beyond them is no answer.
    """
    found = _LETTER.match(prediction)
    return found[1] if found and LETTERS.index(found[1]) < options else None


class Prediction(NamedTuple):
    """An answer to the row of an ``index``.

    ``letters`` are the row's own letters of the options in the order in which they were shown, e.g. ``BCDA`` after one
    turn; ``turn`` counts those of one row from 0.
    """

    row: str
    text: str
    turn: int = 0
    letters: str = LETTERS


def evaluate(predictions: Sequence[Prediction], questions: pd.DataFrame, *, prompt_name: str) -> dict[str, Any]:
    """Score a complete set of predictions.

    Args:
        predictions: one per row of the benchmark, or one per turn of each row's options.
        questions: the benchmark; ``index``, options, ``answer``, and ``split`` for the protocol's name.
        prompt_name: how the model was asked.

    Returns:
        ``accuracy`` (CircularEval) and ``row_accuracy`` in percent, ``n`` questions, ``right``, ``rows``, ``unparsed``,
        ``missing`` (0), ``protocol``.

    Raises:
        AnswerError: no right answers, or rows without prediction, twice, or unknown.
    """
    check_answers(questions)
    known: dict[str, dict[Any, Any]] = {row["index"]: row for row in questions.to_dict("records")}
    turned = any(prediction.turn for prediction in predictions)
    wanted = {(index, turn) for index, row in known.items() for turn in range(len(options_of(row)) if turned else 1)}
    _check_complete([(prediction.row, prediction.turn) for prediction in predictions], wanted)
    right_rows = unparsed = 0
    groups: dict[int, bool] = {}
    for prediction in predictions:
        question = known[prediction.row]
        letter = parse_letter(prediction.text, len(options_of(question)))
        right = letter is not None and prediction.letters[LETTERS.index(letter)] == question["answer"]
        group = int(prediction.row) % GROUP
        groups[group] = groups.get(group, True) and right
        right_rows, unparsed = right_rows + right, unparsed + (letter is None)
    splits = "+".join(sorted(set(questions["split"]))) if "split" in questions else "split unknown"
    rotated = len(predictions) > len(groups)
    style = ("CircularEval in turns of each row" if turned else "CircularEval") if rotated else "one order of options"
    return {
        "accuracy": 100 * sum(groups.values()) / len(groups),
        "row_accuracy": 100 * right_rows / len(predictions),
        "n": len(groups),
        "right": sum(groups.values()),
        "rows": len(predictions),
        "unparsed": unparsed,
        "missing": 0,
        "protocol": f"MMBench {splits}, {style}, {prompt_name}",
    }


def check_answers(questions: pd.DataFrame) -> None:
    """Refuse a benchmark without right answers, as that of a test split.

    Raises:
        AnswerError: no column ``answer``, or a cell of it that is no letter.
    """
    if "answer" not in questions:
        raise AnswerError(f"column 'answer' is missing; it has {', '.join(questions.columns)}. Give a dev file")
    wrong = questions[~questions["answer"].isin(list(LETTERS))]
    if len(wrong):
        raise AnswerError(f"{len(wrong)} rows have no right answer (first: index {wrong['index'].iloc[0]})")


def _check_complete(given: Sequence[tuple[str, int]], wanted: set[tuple[str, int]]) -> None:
    def named(rows: set[tuple[str, int]]) -> list[str]:
        return [f"{index} turn {turn}" if turn else index for index, turn in sorted(rows)[:3]]

    missing, unknown = wanted - set(given), set(given) - wanted
    twice = len(given) - len(set(given))
    if missing or unknown or twice:
        raise AnswerError(
            f"{len(missing)} of {len(wanted)} rows have no prediction (first: {named(missing)}), {len(unknown)} are "
            f"unknown (first: {named(unknown)}), {twice} come twice. No score over a part of the set"
        )


def upload_table(questions: pd.DataFrame, predictions: Sequence[str]) -> pd.DataFrame:
    """The benchmark's rows with their predictions, in the columns of an upload (no images)."""
    table = questions.assign(prediction=list(predictions))
    return table[[column for column in _UPLOAD if column in table]]


def write_upload(table: pd.DataFrame, stem: Path) -> None:
    """Write ``<stem>.xlsx`` and ``<stem>.tsv``; characters that a workbook cannot hold are dropped from the former."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    stem.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(stem.with_suffix(".tsv"), sep="\t", index=False)
    clean = table.map(lambda cell: ILLEGAL_CHARACTERS_RE.sub("", cell))
    clean.to_excel(stem.with_suffix(".xlsx"), index=False)
