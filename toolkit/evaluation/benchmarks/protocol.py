"""Interface of a benchmark: how files become questions and how answers are scored.

::

    files ─ read ─► Questions ─ prompts ─► [the model answers] ─► texts ─ score (parse) ─► Scored
                        └──────────────────────────────────────────────── write ─► <output>/<name>/answers.jsonl, …

A benchmark with one right answer per question implements ``read`` and ``parse`` only. The rest is common to all: files
and images are checked before a model is loaded, prompts are answered in batches together with the log-probabilities of
the right answer and the options, and rows per question and results are written.
"""

from __future__ import annotations

import argparse
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from toolkit.files import write_atomically
from toolkit.questions.answer_files import AnswerError, id_text, percent, read_lines
from toolkit.questions.prompts import Prompt
from toolkit.settings import SettingsModel

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class File:
    """An input of a benchmark.

    Args:
        role: key of the profile and the plan, and option ``--<benchmark>-<role>`` of the command.
        about: its content, for ``--help``.
        kind: ``file``, ``folder``, or ``images``: a folder that holds only the images that questions name; scoring
            existing answers does not need it.
        required: False if the benchmark works without it.
    """

    role: str
    about: str
    kind: Literal["file", "folder", "images"] = "file"
    required: bool = True


class Options(SettingsModel):
    """Settings of a benchmark besides its files; a subclass adds fields, each with a default and a docstring."""

    error = AnswerError


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one image.

    Args:
        id: the benchmark's own id; need not be unique.
        image: file, or its bytes. ``read`` need not check that the file exists.
        text: the whole prompt, including the instruction; pass text from files through ``prompt_text.clean_prompt``.
        right: the right answer as a model would write it; its log-probability is stored. "" if there is none.
        options: all answers to choose from, including ``right``, as a model would write them, e.g. letters.
        fields: whatever else ``score`` and ``write`` need, as JSON values; they count in the key of the answers.
    """

    id: str
    image: Path | bytes
    text: str
    right: str
    options: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All questions of a benchmark, in the order in which answers are written.

    Args:
        rows: the questions.
        protocol: set, version, split and instruction; values under different protocols are not comparable.
        source: whatever ``score`` and ``write`` need of the whole set, e.g. a table.
    """

    rows: Sequence[Question]
    protocol: str
    source: Any = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One value over a complete set of answers.

    Args:
        name: e.g. ``accuracy``; ``accuracy/<part>`` for a part of the set.
        value: in percent, [0, 100], for shares.
        n: number of questions, or of groups of questions, that the value is computed over.
        unparsed: number of answers for which ``parse`` returned None; they count as wrong.
        protocol: that of ``Questions``, and how the metric is computed.
    """

    name: str
    value: float
    n: int
    unparsed: int
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Result of ``score``.

    Args:
        metrics: the headline first.
        right: one score in [0, 1] per question, in their order.
        notes: further facts for ``results.json``, small JSON values; ``incomplete`` marks a set with missing rows.
    """

    metrics: Sequence[Metric]
    right: Sequence[float]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Benchmark(ABC):
    """One benchmark; it holds no state."""

    name: ClassVar[str]
    """Name in profiles, options and results; a valid folder name."""
    title: ClassVar[str]
    """Name in tables."""
    version: ClassVar[int] = 1
    """Part of the key of its answers. Raise it when the same files would give other prompts, metrics or output files;
    a benchmark from outside the package counts by its code as well."""
    files: ClassVar[tuple[File, ...]]
    options: ClassVar[type[Options]] = Options
    output_files: ClassVar[tuple[str, ...]] = (ANSWERS,)
    """Paths of the files that ``write`` writes, relative to its folder."""
    from_questions: ClassVar[Literal["mean", "all_of_cluster"] | None] = "mean"
    """How the headline follows from the questions' scores, in percent: their mean, the share of clusters of which all
    questions are right, or neither (None)."""
    other_metrics: ClassVar[Mapping[str, Literal["mean", "all_of_cluster"] | None]] = {}
    """Metrics in percent besides the headline, in which higher is better: an experiment may decide by them. By name,
    how each follows from the questions' scores, as in ``from_questions``. A name allows its parts, ``<name>/<part>``,
    too."""

    @abstractmethod
    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read and check everything but images, without importing torch.

        Args:
            files: paths by role, which exist; optional ones that were not given are absent.
            options: an instance of the class ``options``.

        Raises:
            AnswerError: a file that cannot be used; names the file and the question.
        """

    @abstractmethod
    def parse(self, question: Question, text: str) -> str | None:
        """The answer in the form of ``question.right``; None if the text is no answer to the question."""

    def prompts(self, questions: Questions) -> list[Prompt]:
        """Prompts of all questions, with the candidates whose log-probabilities are stored."""
        return [Prompt(id=row.id, image=row.image, text=row.text, candidates=candidates(row)) for row in questions.rows]

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """Score a complete set of answers; by default the share of right ones.

        Raises:
            AnswerError: answers that cannot be scored.
        """
        parsed = [self.parse(row, text) for row, text in zip(questions.rows, answers, strict=True)]
        right = [float(answer == row.right) for row, answer in zip(questions.rows, parsed, strict=True)]
        return Scored(metrics=[share("accuracy", right, parsed, questions.protocol)], right=right)

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write ``output_files`` into a folder; override it for the benchmark's own upload formats."""
        rows = [
            {"question_id": row.id, "prompt": row.text, "text": text}
            for row, text in zip(questions.rows, answers, strict=True)
        ]
        write_answers(folder / ANSWERS, rows, model=model)

    def chance(self, questions: Questions) -> Mapping[str, float]:
        """Chance levels, by name of the metric; metrics whose level is not known are left out (see ``chance``)."""
        return {}

    def cluster(self, question_id: str, image: str) -> str:
        """Cluster of a question: questions that share content, e.g. an image, are not independent.

        Args:
            question_id: as in ``QuestionRow``.
            image: name of the image, or a hash of its bytes.
        """
        return image

    def add_score_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of ``toolkit.evaluation.score <name>``: files without images, options, and ``--answers``."""
        for file in self.files:
            if file.kind != "images":
                parser.add_argument(f"--{file.role}", type=Path, required=file.required, help=file.about)
        for name, option in self.options.model_fields.items():
            parser.add_argument(f"--{name.replace('_', '-')}", help=option.description, default=argparse.SUPPRESS)
        parser.add_argument("--answers", type=Path, required=True, help="JSON lines of question_id and text")

    def score_existing(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Score an answers file; returns values by metric, ``n``, ``unparsed`` and ``protocol`` of the headline, and
        notes.

        Raises:
            AnswerError: a file that cannot be used, or missing answers: no benchmark is scored in part.
        """
        values = {role: path for role, path in vars(arguments).items() if path is not None}
        roles = [file.role for file in self.files if file.required or file.role in values]
        files = {role: values.get(role, Path()) for role in roles}
        options = self.options.parse({name: values[name] for name in self.options.model_fields if name in values})
        questions = self.read(files, options)
        scored = self.score(questions, matched(questions, arguments.answers))
        headline = scored.metrics[0]
        figures = {metric.name: metric.value for metric in scored.metrics}
        return {
            **figures, "n": headline.n, "unparsed": headline.unparsed, "protocol": headline.protocol, **scored.notes,
        }  # fmt: skip


def candidates(question: Question) -> tuple[str, ...]:
    """The right answer first, then the other options."""
    return tuple(dict.fromkeys(filter(None, (question.right, *question.options))))


def share(name: str, right: Sequence[float], parsed: Sequence[object], protocol: str) -> Metric:
    """Metric: the share of right answers in percent."""
    unparsed = sum(answer is None for answer in parsed)
    return Metric(
        name=name, value=percent(math.fsum(right), len(right)), n=len(right), unparsed=unparsed, protocol=protocol
    )


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]], *, model: str) -> None:
    """Write an answers file in LLaVA's layout, adding the keys ``answer_id``, ``model_id`` and ``metadata``."""
    # The kit draws a random answer id; a number makes the file reproducible.
    lines = [
        {**row, "answer_id": str(number), "model_id": model, "metadata": {}} for number, row in enumerate(rows)
    ]  # fmt: skip
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def matched(questions: Questions, path: Path) -> list[str]:
    """Answers of a file in the order of the questions; questions that share an id take its answers in order.

    Raises:
        AnswerError: missing answers, or answers that belong to no question.
    """
    left: dict[str, list[str]] = {}
    for row in read_lines(path, ("question_id", "text"), texts=("text",)):
        left.setdefault(id_text(row["question_id"], where=f"{path}: 'question_id'"), []).append(row["text"])
    for texts in left.values():
        texts.reverse()
    found = [rest.pop() if (rest := left.get(question.id)) else None for question in questions.rows]
    missing = [question.id for question, text in zip(questions.rows, found, strict=True) if text is None]
    surplus = [id_ for id_, texts in left.items() if texts]
    if missing or surplus:
        raise AnswerError(
            f"{path}: {len(missing)} of {len(found)} questions have no answer (first: {missing[:3]}), {len(surplus)} "
            f"answers belong to no question or come twice (first: {surplus[:3]}). No score over a part of the set"
        )
    return [text for text in found if text is not None]
