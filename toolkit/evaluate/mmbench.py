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
from typing import Any

import pandas as pd

from toolkit.evaluate.textvqa import AnswerError

LETTERS = "ABCD"
GROUP = 1_000_000
INSTRUCTION = "Answer with the option's letter from the given choices directly."
_LETTER = re.compile(r"\s*\(?([A-D])(?:\s*$|[.):,])")
_EMPTY = {"", "nan", "none"}
_UPLOAD = ("index", "question", *LETTERS, "prediction", "answer", "category", "l2-category", "split")


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
    """Hint if there is one, question, one line per option, instruction."""
    hint = row.get("hint", "")
    lines = [] if hint.strip().lower() in _EMPTY else [hint]
    lines.append(row["question"])
    lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, options_of(row), strict=False)]
    return "\n".join([*lines, INSTRUCTION])


def parse_letter(prediction: str, options: int = len(LETTERS)) -> str | None:
    """The option letter that an answer begins with (``B``, ``B.``, ``(B) text``), or None.

    Args:
        prediction: the model's answer.
        options: how many there are; a letter beyond them is no answer.
    """
    found = _LETTER.match(prediction)
    return found[1] if found and LETTERS.index(found[1]) < options else None


def evaluate(predictions: pd.DataFrame, questions: pd.DataFrame | None = None) -> dict[str, Any]:
    """Score a complete table of predictions.

    Args:
        predictions: ``index``, ``prediction``, options, and ``answer`` unless ``questions`` has it.
        questions: the benchmark; when given, each of its rows must have a prediction.

    Returns:
        ``accuracy`` (CircularEval) and ``row_accuracy`` in percent, ``n`` questions, ``right``, ``rows``, ``unparsed``,
        ``missing`` (0), ``protocol``.

    Raises:
        AnswerError: rows without prediction, twice, or unknown.
    """
    truth = predictions if questions is None else questions
    _check_complete(predictions, truth)
    known = truth.set_index("index")
    rows = right_rows = unparsed = 0
    groups: dict[int, bool] = {}
    for row in predictions.to_dict("records"):
        question = known.loc[row["index"]].to_dict()
        letter = parse_letter(row["prediction"], len(options_of(question)))
        right = letter is not None and letter == question["answer"]
        group = int(row["index"]) % GROUP
        groups[group] = groups.get(group, True) and right
        rows, right_rows, unparsed = rows + 1, right_rows + right, unparsed + (letter is None)
    splits = "+".join(sorted(set(truth["split"]))) if "split" in truth else "?"
    return {
        "accuracy": 100 * sum(groups.values()) / len(groups),
        "row_accuracy": 100 * right_rows / rows,
        "n": len(groups),
        "right": sum(groups.values()),
        "rows": rows,
        "unparsed": unparsed,
        "missing": 0,
        "protocol": f"MMBench {splits}, CircularEval, letter asked for directly",
    }


def _check_complete(predictions: pd.DataFrame, truth: pd.DataFrame) -> None:
    for column, table in (("prediction", predictions), ("answer", truth)):
        if column not in table:
            raise AnswerError(f"column {column!r} is missing; it has {', '.join(table.columns)}")
    given, wanted = list(predictions["index"]), set(truth["index"])
    missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
    twice = len(given) - len(set(given))
    if missing or unknown or twice:
        raise AnswerError(
            f"{len(missing)} of {len(wanted)} rows have no prediction (first: {missing[:3]}), {len(unknown)} are "
            f"unknown (first: {unknown[:3]}), {twice} come twice. No score over a part of the set"
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
