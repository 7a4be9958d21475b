"""GQA: short questions about objects in an image and their relations (arXiv 1902.09506).

In: the release's ``testdev_balanced_questions.json`` or a file of its layout, and the folder of images::

    {"201307251": {"imageId": "n161313", "question": "Is it overcast?", "answer": "no", "isBalanced": true,
                   "types": {"structural": "verify", …}, …}, …}

The prompt is LLaVA's. An answer is lower-cased and loses its trailing periods, as in LLaVA's
``convert_gqa_for_eval.py``, and must then equal the right answer, as in the official ``eval.py``. As there, only
questions with ``isBalanced`` count; ``open`` is the structural type ``query``, ``binary`` all others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolkit.evaluation.benchmarks import chance
from toolkit.evaluation.benchmarks.protocol import ANSWERS, Benchmark, File, Question, Questions, Scored, share
from toolkit.files import write_atomically
from toolkit.questions.answer_files import AnswerError, decode_json, id_text, relative_image
from toolkit.questions.prompt_text import clean_prompt

STRUCTURAL = ("query", "verify", "choose", "logical", "compare")
OPEN = "query"
INSTRUCTION = "Answer the question using a single word or phrase."
PREDICTIONS = "testdev_balanced_predictions.json"
"""Name of the file that ``eval.py`` reads."""


class GQA(Benchmark):
    """``Question.fields`` has the structural type."""

    name = "gqa"
    title = "GQA"
    files = (
        File(role="questions", about="testdev_balanced_questions.json"),
        File(role="images", about="folder of GQA's images, <imageId>.jpg", kind="images"),
    )
    output_files = (ANSWERS, PREDICTIONS)
    other_metrics: ClassVar = {"accuracy": None}  # its parts, e.g. accuracy/open

    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read the balanced questions."""
        path = files["questions"]
        data = decode_json(path.read_bytes(), str(path))
        if not isinstance(data, dict):
            raise AnswerError(f"{path}: needs an object of question ids, as testdev_balanced_questions.json")
        rows = []
        for id_, row in data.items():
            where = f"{path}, question {id_}"
            _check(row, where)
            if row.get("isBalanced", True):
                image = relative_image(f"{row['imageId']}.jpg", where)
                rows.append(Question(
                    id=id_text(id_, where=where), image=files["images"] / image,
                    text=f"{clean_prompt(row['question'].strip(), where=where)}\n{INSTRUCTION}",
                    right=row["answer"], fields={"structural": row["types"]["structural"]},
                ))  # fmt: skip
        if not rows:
            raise AnswerError(f"{path}: holds no balanced question")
        return Questions(rows=rows, protocol=f"GQA {path.stem.removesuffix('_questions')}, single word or phrase")

    def parse(self, question: Question, text: str) -> str | None:
        """The answer as LLaVA passes it to ``eval.py``; None if it is empty."""
        return _prediction(text) or None

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """Accuracy over all questions, over open and binary ones, and over each structural type."""
        parsed = [self.parse(row, text) for row, text in zip(questions.rows, answers, strict=True)]
        right = [float(answer == row.right) for row, answer in zip(questions.rows, parsed, strict=True)]
        metrics = []
        for name, at in _parts(questions).items():
            subset = [right[i] for i in at], [parsed[i] for i in at]
            metrics.append(share(name, *subset, questions.protocol))
        return Scored(metrics=metrics, right=right)

    def chance(self, questions: Questions) -> dict[str, float]:
        """Of the best constant answer in each part."""
        scores = [{row.right: float(_prediction(row.right) == row.right)} for row in questions.rows]
        return {
            name: chance.of_constant_answer(scores[i] for i in indices) for name, indices in _parts(questions).items()
        }

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write LLaVA's answers file and the predictions that ``eval.py`` reads."""
        super().write(folder, questions, answers, model=model)
        predictions = [
            {"questionId": row.id, "prediction": _prediction(text)}
            for row, text in zip(questions.rows, answers, strict=True)
        ]
        write_atomically(folder / PREDICTIONS, json.dumps(predictions, ensure_ascii=False))


def _parts(questions: Questions) -> dict[str, list[int]]:
    """Positions of the questions that each metric is computed over, by its name; parts without questions are absent."""
    binary = [kind for kind in STRUCTURAL if kind != OPEN]
    parts = {"": STRUCTURAL, "/open": [OPEN], "/binary": binary, **{f"/{kind}": [kind] for kind in STRUCTURAL}}
    found = {
        f"accuracy{part}": [i for i, row in enumerate(questions.rows) if row.fields["structural"] in types]
        for part, types in parts.items()
    }
    return {name: indices for name, indices in found.items() if indices}


def _prediction(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _check(row: Any, where: str) -> None:
    """Refuse a question without image, text, answer or structural type, e.g. of GQA's test sets."""
    if not isinstance(row, dict):
        raise AnswerError(f"{where}: needs an object, found {json.dumps(row)[:60]}")
    for key in ("imageId", "question", "answer"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise AnswerError(f"{where}: {key!r} must be a text that is not empty, found {json.dumps(value)}")
    types = row.get("types")
    structural = types.get("structural") if isinstance(types, dict) else None
    if structural not in STRUCTURAL:
        raise AnswerError(f"{where}: types.structural {structural!r} is none of {', '.join(STRUCTURAL)}")


GQA_BENCHMARK = GQA()
