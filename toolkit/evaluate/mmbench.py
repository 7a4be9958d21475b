"""MMBench's metric. In: a benchmark or upload table, and predictions. Out: CircularEval accuracy.

A question's rotations are rows of their own with the same ``index % 1000000``; it counts only when every rotation is
answered right. What names no option is counted as ``unparsed`` and is wrong; it is never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from toolkit.evaluate.answer_files import AnswerError, percent
from toolkit.evaluate.letters import LETTERS, parse_letter
from toolkit.evaluate.mmbench_table import (
    GROUP,
    check_answers,
    clean_questions,
    options_of,
    pictures,
    prompt,
    read_table,
)

__all__ = [
    "LETTERS",
    "Prediction",
    "check_answers",
    "clean_questions",
    "evaluate",
    "mark_incomplete",
    "missing_rotations",
    "options_of",
    "parse_letter",
    "pictures",
    "prompt",
    "read_table",
    "upload_table",
    "write_upload",
]

INSTRUCTION = "Answer with the option's letter from the given choices directly."
_UPLOAD = ("index", "question", *LETTERS, "prediction", "answer", "split")


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
        ``accuracy`` (CircularEval) and ``row_accuracy`` in percent (``answer_files.DECIMALS`` decimals), ``n``
        questions, ``right``, ``rows``, ``unparsed``, ``missing`` (0), ``protocol``.

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
        shown = prediction.letters[: len(options_of(question))]
        letter = parse_letter(prediction.text, [question.get(option, "") for option in shown])
        right = letter is not None and prediction.letters[LETTERS.index(letter)] == question["answer"]
        group = int(prediction.row) % GROUP
        groups[group] = groups.get(group, True) and right
        right_rows, unparsed = right_rows + right, unparsed + (letter is None)
    splits = "+".join(sorted(set(questions["split"]))) if "split" in questions else "split unknown"
    rotated = len(predictions) > len(groups)
    style = ("CircularEval in turns of each row" if turned else "CircularEval") if rotated else "one order of options"
    return {
        "accuracy": percent(sum(groups.values()), len(groups)),
        "row_accuracy": percent(right_rows, len(predictions)),
        "n": len(groups),
        "right": sum(groups.values()),
        "rows": len(predictions),
        "unparsed": unparsed,
        "missing": 0,
        "protocol": f"MMBench {splits}, {style}, {prompt_name}",
    }


def mark_incomplete(result: dict[str, Any], table: pd.DataFrame, *, one_order: bool) -> dict[str, Any]:
    """A result of :func:`evaluate` that says where rotations are missing from the table that it was computed over.

    Returns:
        ``result``, and where rotations are missing: ``missing``, how many; ``incomplete``, of how many questions; and a
        ``protocol`` that begins with ``incomplete``.
    """
    short = missing_rotations(table, one_order=one_order)
    if not short:
        return result
    missing = sum(wanted - found for found, wanted in short.values())
    return {**result, "missing": missing, "incomplete": len(short), "protocol": f"incomplete, {result['protocol']}"}


def missing_rotations(table: pd.DataFrame, *, one_order: bool) -> dict[str, tuple[int, int]]:
    """Questions whose rotations are not all in a table, as in a file that was cut off.

    An option that stands in the same place in every row of a question ("all of the above") is not rotated, as in the
    official dev file: four options, three rotations.

    Args:
        one_order: True accepts a table in which no question has a second row, as a benchmark without rotations.

    Returns:
        Rows found and rows expected, by the question's index without its rotation.
    """
    groups: dict[int, dict[int, list[str]]] = {}
    for row in table.drop(columns="image", errors="ignore").to_dict("records"):
        turn, question = divmod(int(row["index"]), GROUP)
        groups.setdefault(question, {})[turn] = options_of(row)
    if one_order and len(groups) == len(table):
        return {}
    counts = {str(question): (len(orders), _rotations(orders)) for question, orders in groups.items()}
    return {question: (found, wanted) for question, (found, wanted) in counts.items() if found < wanted}


def _rotations(orders: Mapping[int, list[str]]) -> int:
    """Rows that a question must have, told from its options, by turn, in the rows that are there."""
    (start, first), *_ = orders.items()
    if len(orders) == 1:
        return len(first)
    for moving in range(len(first), 1, -1):
        for way in (1, -1):
            if all(_turned(first, moving, way * (turn - start)) == options for turn, options in orders.items()):
                return moving
    return sum(len(set(texts)) > 1 for texts in zip(*orders.values(), strict=False))


def _turned(options: list[str], moving: int, turns: int) -> list[str]:
    """Options of which the first ``moving`` have been rotated."""
    at = turns % moving
    return options[at:moving] + options[:at] + options[moving:]


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
