"""Scores answers that exist already; prints one JSON line with accuracy, n, unparsed, missing and protocol.

    python -m toolkit.evaluate.score textvqa --annotations TextVQA_0.5.1_val.json --answers merge.jsonl
    python -m toolkit.evaluate.score mmbench --predictions upload.xlsx [--questions mmbench_dev.tsv]
    python -m toolkit.evaluate.score mmbench --predictions answers.jsonl --questions mmbench_dev.tsv

Answers of other models are accepted in LLaVA's and MGM's layouts: TextVQA's answers file; MMBench's answers file, with
one answer a row or one for every turn of a row's options; the table that is uploaded for MMBench. Exit code 2 when
something is missing; there is no score over a part. LLaVA leaves MMBench's answers to the benchmark's server, which may
guess what a sentence means; here an answer must begin with its letter, or it is counted as ``unparsed`` and is wrong.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluate import mmbench, textvqa
from toolkit.evaluate.answer_files import AnswerError, read_lines


def score_textvqa(annotations: Path, answers: Path) -> dict[str, Any]:
    """Metric of an answers file; see :func:`textvqa.evaluate`."""
    rows = read_lines(answers, ("question_id", "prompt", "text"), texts=("prompt", "text"))
    result = textvqa.evaluate(annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"}


def score_mmbench(predictions: Path, questions: Path | None) -> dict[str, Any]:
    """Metric of an answers file (``.jsonl``) or of an upload table; see :func:`mmbench.evaluate`.

    Args:
        questions: the benchmark; None takes an upload table at its word for what was asked and what is right.

    Raises:
        AnswerError: an answers file without ``questions``, or what :func:`mmbench.evaluate` raises.
    """
    table = mmbench.read_table(questions) if questions else None
    if predictions.suffix != ".jsonl":
        upload = mmbench.read_table(predictions)
        given, table = _of_upload(predictions, upload), upload if table is None else table
    elif table is None:
        raise AnswerError(
            f"{predictions}: an answers file does not say what is right; give the benchmark as --questions"
        )
    else:
        given = _of_answers(predictions)
    return mmbench.evaluate(given, table, prompt_name="prompt not recorded")


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
        index, turn = str(row["question_id"]), int(row.get("round_id", 0))
        letters = "".join(row.get("option_char", "" if turn else mmbench.LETTERS))
        if not letters or not set(letters) <= set(mmbench.LETTERS):
            raise AnswerError(
                f"{path}: question {index}, turn {turn}: needs 'option_char', letters of {mmbench.LETTERS}"
            )
        found.append(mmbench.Prediction(index, row["text"], turn, letters))
    return found


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
    given = parser.parse_args(arguments)
    try:
        if given.benchmark == "textvqa":
            result = score_textvqa(given.annotations, given.answers)
        else:
            result = score_mmbench(given.predictions, given.questions)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps({"benchmark": given.benchmark, **result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
