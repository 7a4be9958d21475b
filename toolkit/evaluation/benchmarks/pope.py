"""POPE: is there an object in the image? (arXiv 2305.10355). In: three sets of questions and COCO's images.

The sets differ in how the absent objects were chosen: ``random``, ``popular``, ``adversarial``. Their files hold JSON
lines of ``question_id``, ``image``, ``text``, ``label`` and are named ``coco_pope_random.json`` or with another data
set's name. Answers are parsed as by the official ``evaluate.py``: no if a word of the first sentence, without commas,
is "No", "no" or "not", otherwise yes; so no answer is unparsed.

All metrics are in percent. Overall accuracy and yes ratio are computed over all questions; overall F1, precision and
recall are means over the sets, as they are published. If no answer or no label is yes, precision, recall and F1 are 0,
where the official script divides by zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolkit.evaluation.benchmarks import chance
from toolkit.evaluation.benchmarks.protocol import Benchmark, File, Metric, Question, Questions, Scored
from toolkit.questions.answer_files import DECIMALS, AnswerError, id_text, percent, read_lines, relative_image
from toolkit.questions.prompt_text import clean_prompt

SETS = ("random", "popular", "adversarial")
INSTRUCTION = "Answer the question using a single word or phrase."
FIGURES = ("accuracy", "f1", "precision", "recall", "yes_ratio")
_FILE = re.compile(rf"\w+_pope_({'|'.join(SETS)})\.json")


class POPE(Benchmark):
    """``Question.fields`` has the set."""

    name = "pope"
    title = "POPE"
    files = (
        File(role="questions", about="folder of coco_pope_random.json, _popular and _adversarial", kind="folder"),
        File(
            role="images", about="folder that the questions' image paths are relative to, e.g. val2014", kind="images"
        ),
    )
    other_metrics: ClassVar = dict.fromkeys(FIGURES[:-1])  # a higher share of "yes" is not better

    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read all sets that have files."""
        set_files: dict[str, Path] = {}
        for path in sorted(files["questions"].glob("*.json")):
            if match := _FILE.fullmatch(path.name):
                if match[1] in set_files:
                    raise AnswerError(
                        f"{files['questions']}: {set_files[match[1]].name} and {path.name} are the same set"
                    )
                set_files[match[1]] = path
        if not set_files:
            raise AnswerError(f"{files['questions']}: holds no file like coco_pope_random.json")
        rows = []
        for name in (name for name in SETS if name in set_files):
            for row in read_lines(
                set_files[name], ("question_id", "image", "text", "label"), texts=("image", "text", "label")
            ):
                where = f"{set_files[name]}, question {row['question_id']}"
                label = row["label"].strip().capitalize()
                if label not in ("Yes", "No"):
                    raise AnswerError(f"{where}: label {row['label']!r} is neither yes nor no")
                rows.append(Question(
                    id=f"{name}/{id_text(row['question_id'], where=where)}",
                    image=files["images"] / relative_image(row["image"], where),
                    text=f"{clean_prompt(row['text'].strip(), where=where)}\n{INSTRUCTION}",
                    right=label, options=("Yes", "No"), fields={"set": name},
                ))  # fmt: skip
        missing = [name for name in SETS if name not in set_files]
        part = f", without {' and '.join(missing)}" if missing else ""
        return Questions(rows=rows, protocol=f"POPE{part}, single word or phrase")

    def parse(self, question: Question, text: str) -> str:
        """Yes or No by the official rule."""
        words = text.partition(".")[0].replace(",", "").split(" ")
        return "No" if {"No", "no", "not"} & set(words) else "Yes"

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """The five metrics over all questions and over each set."""
        parsed = [self.parse(row, text) for row, text in zip(questions.rows, answers, strict=True)]
        right = [float(row.right == answer) for row, answer in zip(questions.rows, parsed, strict=True)]
        by_set: dict[str, list[tuple[str, str]]] = {}
        for row, answer in zip(questions.rows, parsed, strict=True):
            by_set.setdefault(row.fields["set"], []).append((row.right, answer))
        by_name = {name: figures(pairs) for name, pairs in by_set.items()}
        total = figures([pair for pairs in by_set.values() for pair in pairs])
        for name in ("f1", "precision", "recall"):
            total[name] = round(math.fsum(some[name] for some in by_name.values()) / len(by_name), DECIMALS)

        def metrics(part: str, values: Mapping[str, float], n: int) -> list[Metric]:
            return [
                Metric(name=f"{name}{part}", value=values[name], n=n, unparsed=0, protocol=questions.protocol)
                for name in FIGURES
            ]

        found = metrics("", total, len(right))
        for name, values in by_name.items():
            found += metrics(f"/{name}", values, len(by_set[name]))
        return Scored(metrics=found, right=right)

    def chance(self, questions: Questions) -> dict[str, float]:
        """Of accuracy, over all questions and over each set."""
        sets = dict.fromkeys(row.fields["set"] for row in questions.rows)
        by_set = {
            f"accuracy/{name}": chance.of_options([row for row in questions.rows if row.fields["set"] == name])
            for name in sets
        }
        return {"accuracy": chance.of_options(questions.rows), **by_set}


def figures(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """``FIGURES`` in percent, from pairs (right answer, answer) of Yes and No; Yes is positive."""
    hits = sum(pair == ("Yes", "Yes") for pair in pairs)
    labelled, answered = (sum(pair[side] == "Yes" for pair in pairs) for side in (0, 1))
    return {
        "accuracy": percent(sum(label == answer for label, answer in pairs), len(pairs)),
        "f1": percent(2 * hits, max(1, labelled + answered)),
        "precision": percent(hits, max(1, answered)),
        "recall": percent(hits, max(1, labelled)),
        "yes_ratio": percent(answered, len(pairs)),
    }


POPE_BENCHMARK = POPE()
