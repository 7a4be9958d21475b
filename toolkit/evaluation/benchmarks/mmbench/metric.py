"""MMBench's metric. In: a benchmark or upload table, and predictions. Out: CircularEval accuracy.

A question's rotations are separate rows with the same ``index % 1000000``; the question is right only if every rotation
is. An answer that names no option is counted as ``unparsed`` and wrong; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS, parse_letter
from toolkit.evaluation.benchmarks.mmbench.table import GROUP, check_answers, options_of
from toolkit.questions.answer_files import AnswerError, percent

if TYPE_CHECKING:
    import pandas as pd


class Prediction(NamedTuple):
    """An answer to the row with an ``index``.

    ``letters`` are the row's letters of the options in the order shown, e.g. ``BCDA`` after one rotation; ``turn``
    numbers the rotations of one row from 0.
    """

    row: str
    text: str
    turn: int = 0
    letters: str = LETTERS


def evaluate(predictions: Sequence[Prediction], questions: pd.DataFrame, *, prompt_name: str) -> dict[str, Any]:
    """Score a complete set of predictions.

    Args:
        predictions: one per row of the benchmark, or one per rotation of each row's options.
        questions: the benchmark; ``index``, options, ``answer``, and ``split`` for the protocol's name.
        prompt_name: kind of prompt, for the protocol.

    Returns:
        ``accuracy`` (CircularEval) and ``row_accuracy`` in percent (``answer_files.DECIMALS`` decimals), ``n``
        questions, ``right``, ``rows``, ``unparsed``, ``missing`` (0), ``protocol``, and ``scores``, 1.0 or 0.0 in the
        order of the predictions.

    Raises:
        AnswerError: no right answers, or missing, duplicate or unknown rows.
    """
    check_answers(questions)
    known: dict[str, dict[Any, Any]] = {row["index"]: row for row in questions.to_dict("records")}
    turned = any(prediction.turn for prediction in predictions)
    wanted = {(index, turn) for index, row in known.items() for turn in range(len(options_of(row)) if turned else 1)}
    _check_complete([(prediction.row, prediction.turn) for prediction in predictions], wanted)
    unparsed, scores = 0, []
    groups: dict[int, bool] = {}
    for prediction in predictions:
        question = known[prediction.row]
        shown = prediction.letters[: len(options_of(question))]
        letter = parse_letter(prediction.text, [question.get(option, "") for option in shown])
        right = letter is not None and prediction.letters[LETTERS.index(letter)] == question["answer"]
        group = int(prediction.row) % GROUP
        groups[group] = groups.get(group, True) and right
        scores.append(float(right))
        unparsed += letter is None
    splits = "+".join(sorted(set(questions["split"]))) if "split" in questions else "split unknown"
    rotated = len(predictions) > len(groups)
    style = ("CircularEval in turns of each row" if turned else "CircularEval") if rotated else "one order of options"
    return {
        "accuracy": percent(sum(groups.values()), len(groups)),
        "row_accuracy": percent(sum(scores), len(scores)),
        "n": len(groups),
        "right": sum(groups.values()),
        "rows": len(predictions),
        "unparsed": unparsed,
        "missing": 0,
        "protocol": f"MMBench {splits}, {style}, {prompt_name}",
        "scores": scores,
    }


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
