"""TextVQA: short answers about text in images. In: questions in LLaVA's layout, annotations, images."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluation.benchmarks import chance
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
from toolkit.evaluation.benchmarks.textvqa.answer_processing import process_answer
from toolkit.evaluation.benchmarks.textvqa.metric import answer_score, answer_scores, evaluate, match
from toolkit.questions.answer_files import AnswerError, percent, read_lines, relative_image
from toolkit.questions.prompt_text import clean_prompt


class TextVQA(Benchmark):
    """``Question.fields`` has the ten human answers (``humans``) and ``question_id`` as in the file."""

    name = "textvqa"
    title = "TextVQA"
    files = (
        File(role="questions", about="JSON lines in LLaVA's layout, e.g. llava_textvqa_val_v051_ocr.jsonl"),
        File(role="annotations", about="TextVQA_0.5.1_val.json"),
        File(role="images", about="folder that the questions' image paths are relative to", kind="images"),
    )

    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read the questions and match them with the annotations."""
        path, found = files["questions"], []
        for row in read_lines(path, ("question_id", "image", "text"), texts=("image", "text")):
            where = f"{path}, question {row['question_id']}"
            text = clean_prompt(row["text"], where=where)
            if not text.strip():
                raise AnswerError(f"{where}: its text is empty")
            found.append((row["question_id"], files["images"] / relative_image(row["image"], where), text))
        humans, protocol = match(files["annotations"], [{"question_id": id_, "prompt": text} for id_, _, text in found])
        rows = [
            Question(
                id=str(id_), image=image, text=text, right=_commonest(given),
                fields={"question_id": id_, "humans": given},
            )
            for (id_, image, text), given in zip(found, humans, strict=True)
        ]  # fmt: skip
        return Questions(rows=rows, protocol=f"{protocol}, leave-one-out")

    def parse(self, question: Question, text: str) -> str:
        """The normalised answer; any text is an answer."""
        return process_answer(text)

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """Mean leave-one-out score against the human answers."""
        pairs = zip(questions.rows, answers, strict=True)
        scores = [answer_score(text, question.fields["humans"]) for question, text in pairs]
        value, n = percent(math.fsum(scores), len(scores)), len(scores)
        return Scored(
            metrics=[Metric(name="accuracy", value=value, n=n, unparsed=0, protocol=questions.protocol)], right=scores
        )

    def chance(self, questions: Questions) -> dict[str, float]:
        """Of the best constant answer."""
        return {"accuracy": chance.of_constant_answer(answer_scores(row.fields["humans"]) for row in questions.rows)}

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write the kit's answers file."""
        rows = [
            {"question_id": row.fields["question_id"], "prompt": row.text, "text": text}
            for row, text in zip(questions.rows, answers, strict=True)
        ]
        write_answers(folder / ANSWERS, rows, model=model)

    def add_score_options(self, parser: argparse.ArgumentParser) -> None:
        """Add options for annotations and answers; an answers file holds the prompts, so no questions are needed."""
        parser.add_argument("--annotations", type=Path, required=True)
        parser.add_argument("--answers", type=Path, required=True)

    def score_existing(self, given: argparse.Namespace) -> dict[str, Any]:
        """Score answers of this or another model; see :func:`score_textvqa`."""
        return score_textvqa(given.annotations, given.answers)


def score_textvqa(annotations: Path, answers: Path) -> dict[str, Any]:
    """Metric of an answers file; see :func:`metric.evaluate`."""
    rows = read_lines(answers, ("question_id", "prompt", "text"), texts=("prompt", "text"))
    result = evaluate(annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"}


def _commonest(humans: Sequence[str]) -> str:
    """The most common human answer; the first of equally common ones."""
    return Counter(humans).most_common(1)[0][0]


TEXTVQA = TextVQA()
