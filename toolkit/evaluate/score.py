"""Scores answers that exist already; prints one JSON line with accuracy, n, unparsed, missing and protocol.

    python -m toolkit.evaluate.score textvqa --annotations TextVQA_0.5.1_val.json --answers merge.jsonl
    python -m toolkit.evaluate.score mmbench --predictions upload.xlsx [--questions mmbench_dev.tsv]
    python -m toolkit.evaluate.score mmbench --predictions answers.jsonl --questions mmbench_dev.tsv

Answers of other models are accepted in LLaVA's and MGM's layouts: TextVQA's answers file; MMBench's answers file, with
one answer a row or one for every turn of a row's options; the table that is uploaded for MMBench. Exit code 2 when
something is missing; there is no score over a part. LLaVA leaves MMBench's answers to the benchmark's server, which may
guess what a sentence means; here an answer must begin with its letter, or it is counted as ``unparsed`` and is wrong.

Without ``--questions`` an upload table may have been cut off. Questions with fewer rows than rotations are counted, the
protocol then begins with ``incomplete``, and the exit code is 3 unless ``--allow-incomplete`` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluate import mmbench, textvqa
from toolkit.evaluate.answer_files import AnswerError, id_text, one_line, read_lines
from toolkit.file_errors import EnvironmentFault


def score_textvqa(annotations: Path, answers: Path) -> dict[str, Any]:
    """Metric of an answers file; see :func:`textvqa.evaluate`."""
    rows = read_lines(answers, ("question_id", "prompt", "text"), texts=("prompt", "text"))
    result = textvqa.evaluate(annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"}


def score_mmbench(predictions: Path, questions: Path | None) -> dict[str, Any]:
    """Metric of an answers file (``.jsonl``) or of an upload table; see :func:`mmbench.evaluate`.

    Args:
        questions: the benchmark; None takes an upload table at its word for what was asked and what is right.

    Returns:
        See :func:`mmbench.evaluate`; where rotations are missing, see :func:`mmbench.mark_incomplete`.

    Raises:
        AnswerError: an answers file without ``questions``, or what :func:`mmbench.evaluate` raises.
    """
    table = mmbench.read_table(questions) if questions else None
    if predictions.suffix.lower() != ".jsonl":
        upload = mmbench.read_table(predictions)
        given, table = _of_upload(predictions, upload), upload if table is None else table
    elif table is None:
        raise AnswerError(
            f"{predictions}: an answers file does not say what is right; give the benchmark as --questions"
        )
    else:
        given = _of_answers(predictions)
    try:
        result = mmbench.evaluate(given, table, prompt_name="prompt not recorded")
    except AnswerError as error:
        raise AnswerError(f"{questions or predictions}: {error}") from None
    return mmbench.mark_incomplete(result, table, one_order=questions is not None)


def _of_upload(path: Path, upload: Any) -> list[mmbench.Prediction]:
    if "prediction" not in upload:
        raise AnswerError(f"{path}: column 'prediction' is missing; it has {', '.join(upload.columns)}")
    empty = upload[upload["prediction"].str.strip() == ""]
    if len(empty):
        raise AnswerError(
            f"{path}: {len(empty)} of {len(upload)} rows have no prediction (first: index {empty['index'].iloc[0]}); "
            "if the model did answer nothing there, score its answers file (.jsonl), which tells the two apart"
        )
    return [mmbench.Prediction(*row) for row in zip(upload["index"], upload["prediction"], strict=True)]


def _of_answers(path: Path) -> list[mmbench.Prediction]:
    found = []
    for row in read_lines(path, ("question_id", "text"), texts=("text",)):
        index = id_text(row["question_id"], where=f"{path}: 'question_id'")
        turn = _turn(row, f"{path}: question {index}")
        given = row.get("option_char", "" if turn else mmbench.LETTERS)
        letters = "".join(given) if isinstance(given, str) or _all_texts(given) else ""
        if not letters or not set(letters) <= set(mmbench.LETTERS) or len(set(letters)) < len(letters):
            raise AnswerError(
                f"{path}: question {index}, turn {turn}: needs 'option_char', letters of {mmbench.LETTERS}"
            )
        found.append(mmbench.Prediction(index, row["text"], turn, letters))
    return found


def _turn(row: dict[str, Any], where: str) -> int:
    turn = row.get("round_id", 0)
    turn = int(turn) if isinstance(turn, str) and turn.isdecimal() else turn
    if isinstance(turn, bool) or not isinstance(turn, int) or turn < 0:
        raise AnswerError(f"{where}: 'round_id' must be a whole number from 0; found {json.dumps(turn)}")
    return turn


def _all_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.evaluate.score", description="Score existing answers.")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    text = benchmarks.add_parser("textvqa")
    text.add_argument("--annotations", type=Path, required=True)
    text.add_argument("--answers", type=Path, required=True)
    choice = benchmarks.add_parser("mmbench")
    choice.add_argument("--predictions", type=Path, required=True, help=".jsonl, .xlsx or .tsv")
    choice.add_argument(
        "--questions", type=Path, help="the benchmark; needed with .jsonl, and when a table may be incomplete"
    )
    choice.add_argument(
        "--allow-incomplete", action="store_true", help="exit code 0 although questions lack some of their rotations"
    )
    given = parser.parse_args(arguments)
    try:
        if given.benchmark == "textvqa":
            result = score_textvqa(given.annotations, given.answers)
        else:
            result = score_mmbench(given.predictions, given.questions)
    except (ValueError, OSError, EnvironmentFault) as error:
        parser.exit(2, f"error: {one_line(error)}\n")
    print(json.dumps({"benchmark": given.benchmark, **result}))
    if "incomplete" not in result:
        return 0
    print(
        f"incomplete: {result['incomplete']} of {result['n']} questions have fewer rows than rotations "
        f"({result['missing']} rows are missing), so this is no CircularEval figure; was the file cut off?",
        file=sys.stderr,
    )
    return 0 if given.allow_incomplete else 3


if __name__ == "__main__":
    raise SystemExit(main())
