"""MMBench: multiple choice with rotated options. In: the official TSV, which holds the images. Out: CircularEval."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolkit.evaluation.benchmarks import chance
from toolkit.evaluation.benchmarks.mmbench.answers import of_answers, of_upload
from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS, parse_letter
from toolkit.evaluation.benchmarks.mmbench.metric import Prediction, evaluate
from toolkit.evaluation.benchmarks.mmbench.rotations import mark_incomplete
from toolkit.evaluation.benchmarks.mmbench.table import (
    GROUP,
    check_answers,
    clean_questions,
    options_of,
    prompt,
    read_images,
    read_table,
)
from toolkit.evaluation.benchmarks.mmbench.upload import upload_table, write_upload
from toolkit.evaluation.benchmarks.protocol import (
    ANSWERS,
    Benchmark,
    File,
    Metric,
    Question,
    Questions,
    Scored,
    write_answers,
)
from toolkit.questions.answer_files import AnswerError

INSTRUCTION = "Answer with the option's letter from the given choices directly."
PROMPT_NAME = "letter asked for directly"
UPLOAD = "upload"


class MMBench(Benchmark):
    """One question per row of the table, so one per rotation; ``Question.fields`` is the row without its image."""

    name = "mmbench"
    title = "MMBench"
    files = (File(role="table", about="the benchmark's TSV, e.g. mmbench_dev_20230712.tsv"),)
    output_files = (ANSWERS, f"{UPLOAD}.tsv", f"{UPLOAD}.xlsx")
    from_questions = "all_of_cluster"
    other_metrics: ClassVar = {"row_accuracy": "mean"}

    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read the table; ``Questions.source`` is the table with cleaned texts."""
        path = files["table"]
        table = read_table(path)
        try:
            check_answers(table)
            table, images = clean_questions(table), read_images(table)
        except AnswerError as error:
            raise AnswerError(f"{path}: {error}") from None
        records: list[dict[Any, Any]] = table.drop(columns="image").to_dict("records")
        rows = [
            Question(
                id=row["index"], image=images[row["index"]], text=f"{prompt(row)}\n{INSTRUCTION}", right=row["answer"],
                options=tuple(LETTERS[: len(options_of(row))]), fields=row,
            )
            for row in records
        ]  # fmt: skip
        return Questions(rows=rows, protocol=PROMPT_NAME, source=table)

    def parse(self, question: Question, text: str) -> str | None:
        """The option letter that an answer begins with."""
        return parse_letter(text, options_of(question.fields))

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """CircularEval accuracy over questions, and the share of right rows."""
        given = [Prediction(row.id, text) for row, text in zip(questions.rows, answers, strict=True)]
        result = evaluate(given, questions.source, prompt_name=questions.protocol)
        result = mark_incomplete(result, questions.source, one_order=True)
        shared = {"unparsed": result["unparsed"], "protocol": result["protocol"]}
        return Scored(
            metrics=(
                Metric(name="accuracy", value=result["accuracy"], n=result["n"], **shared),
                Metric(name="row_accuracy", value=result["row_accuracy"], n=result["rows"], **shared),
            ),
            right=result["scores"],
            notes={key: result[key] for key in ("right", "missing", "incomplete") if key in result},
        )

    def chance(self, questions: Questions) -> dict[str, float]:
        """Of CircularEval: k^-k for a question with k options, all of which are rotated."""
        circular = chance.of_groups(questions.rows, lambda row: int(row.id) % GROUP)
        return {"accuracy": circular, "row_accuracy": chance.of_options(questions.rows)}

    def cluster(self, question_id: str, image: str) -> str:
        """The question of which this is a rotation."""
        return str(int(question_id.partition("#")[0]) % GROUP)

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write the kit's answers file and the table for the benchmark's server."""
        rows = []
        for question, text in zip(questions.rows, answers, strict=True):
            row = {"question_id": int(question.id), "round_id": 0, "prompt": prompt(question.fields), "text": text}
            rows.append({**row, "options": options_of(question.fields), "option_char": list(question.options)})
        write_answers(folder / ANSWERS, rows, model=model)
        write_upload(upload_table(questions.source, answers), folder / UPLOAD)

    def add_score_options(self, parser: argparse.ArgumentParser) -> None:
        """Add options for an answers file or upload table, and the benchmark."""
        parser.add_argument("--predictions", type=Path, required=True, help=".jsonl, .xlsx or .tsv")
        parser.add_argument(
            "--questions", type=Path, help="the benchmark; needed with .jsonl, and when a table may be incomplete"
        )
        parser.add_argument(
            "--allow-incomplete",
            action="store_true",
            help="exit code 0 even if questions lack some of their rotations",
        )

    def score_existing(self, given: argparse.Namespace) -> dict[str, Any]:
        """Score predictions of this or another model; see :func:`score_mmbench`."""
        return score_mmbench(given.predictions, given.questions)


def score_mmbench(predictions: Path, questions: Path | None) -> dict[str, Any]:
    """Metric of an answers file (``.jsonl``) or of an upload table; see :func:`metric.evaluate`.

    Args:
        questions: the benchmark; None uses the questions and right answers of the upload table.

    Returns:
        See :func:`metric.evaluate`; where rotations are missing, see :func:`rotations.mark_incomplete`.

    Raises:
        AnswerError: an answers file without ``questions``, or what :func:`metric.evaluate` raises.
    """
    table = read_table(questions) if questions else None
    if predictions.suffix.lower() != ".jsonl":
        upload = read_table(predictions)
        given, table = of_upload(predictions, upload), upload if table is None else table
    elif table is None:
        raise AnswerError(
            f"{predictions}: an answers file does not say what is right; give the benchmark as --questions"
        )
    else:
        given = of_answers(predictions)
    try:
        result = evaluate(given, table, prompt_name="prompt not recorded")
    except AnswerError as error:
        raise AnswerError(f"{questions or predictions}: {error}") from None
    result = mark_incomplete(result, table, one_order=questions is not None)
    return {key: value for key, value in result.items() if key != "scores"}


MMBENCH = MMBench()
