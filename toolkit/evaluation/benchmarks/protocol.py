"""What a benchmark is. A subclass of ``Benchmark`` says how files become questions and how answers are scored.

::

    files ─ read ─► Questions ─ prompts ─► [the model answers] ─► texts ─ score (parse) ─► Scored
                        └──────────────────────────────────────────────── write ─► <output>/<name>/answers.jsonl, …

Everything else is common: files are checked before a model is loaded, pictures looked at, answers made in batches
together with the log-probability of the right answer and of the options, rows per question and results written. A
benchmark with one right answer per question only implements ``read`` and ``parse``.
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

from toolkit.evaluation.answer_files import AnswerError, id_text, percent, read_lines
from toolkit.evaluation.prompts import Prompt
from toolkit.files import write_atomically
from toolkit.settings import SettingsModel

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class File:
    """An input of a benchmark.

    Args:
        role: key of the profile and the plan, and option ``--<benchmark>-<role>`` of the command.
        about: what it holds, for ``--help``.
        kind: ``images`` is a folder of nothing but pictures that questions name, which scoring does not need.
        required: False where the benchmark can do without it.
    """

    role: str
    about: str
    kind: Literal["file", "folder", "images"] = "file"
    required: bool = True


class Options(SettingsModel):
    """Settings of a benchmark besides its files; subclasses add fields, each with a default."""

    error = AnswerError


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one picture.

    Args:
        id: as the benchmark names it; need not be unique.
        image: file, or its bytes. ``read`` need not look whether it is there.
        text: the whole prompt as a model is asked, instruction included; ``prompt_text.clean_prompt`` checks it.
        right: the right answer as a model would write it; its log-probability is stored. "" where there is none.
        options: every answer to choose from as a model would write it, e.g. letters, ``right`` among them.
        fields: whatever else ``score`` and ``write`` need.
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
        protocol: names set, version, split and instruction: figures of other protocols do not compare.
        source: whatever ``score`` and ``write`` need of the whole, e.g. a table.
    """

    rows: Sequence[Question]
    protocol: str
    source: Any = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure over a complete set of answers.

    Args:
        name: e.g. ``accuracy``; ``accuracy/<part>`` for a part of the set.
        value: percent for shares.
        n: questions that it is taken over.
        unparsed: answers among them that say nothing that could be right or wrong, and count as wrong.
        protocol: as in ``Questions``, and how the metric is computed.
    """

    name: str
    value: float
    n: int
    unparsed: int
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What ``score`` found.

    Args:
        metrics: the headline first.
        right: one score in [0, 1] per question, in their order.
        notes: further facts for ``results.json``, small JSON values; ``incomplete`` says that the set is not whole.
    """

    metrics: Sequence[Metric]
    right: Sequence[float]
    notes: Mapping[str, Any] = field(default_factory=dict)


class Benchmark(ABC):
    """One benchmark; it holds no state."""

    name: ClassVar[str]
    """In profiles, options and results; a valid folder name."""
    title: ClassVar[str]
    """As it is written in tables."""
    files: ClassVar[tuple[File, ...]]
    options: ClassVar[type[Options]] = Options
    output_files: ClassVar[tuple[str, ...]] = (ANSWERS,)
    """What ``write`` writes."""

    @abstractmethod
    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read and check everything but pictures, without importing torch.

        Args:
            files: by role; optional ones that are not given are missing. Files and folders are there.
            options: an instance of the class ``options``.

        Raises:
            AnswerError: a file that cannot be used; names the file and the question.
        """

    @abstractmethod
    def parse(self, question: Question, text: str) -> str | None:
        """What an answer says, in the form of ``question.right``; None where it says nothing that could be right."""

    def prompts(self, questions: Questions) -> list[Prompt]:
        """What the model is asked, with the answers whose log-probabilities are stored."""
        return [Prompt(id=row.id, image=row.image, text=row.text, candidates=candidates(row)) for row in questions.rows]

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """Score a complete set of answers; the share of right ones unless a benchmark says otherwise.

        Raises:
            AnswerError: answers that cannot be scored.
        """
        parsed = [self.parse(row, text) for row, text in zip(questions.rows, answers, strict=True)]
        right = [float(said == row.right) for row, said in zip(questions.rows, parsed, strict=True)]
        return Scored(metrics=[share("accuracy", right, parsed, questions.protocol)], right=right)

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write ``output_files`` into a folder, in the benchmark's own formats for uploads where it has any."""
        rows = [
            {"question_id": row.id, "prompt": row.text, "text": text}
            for row, text in zip(questions.rows, answers, strict=True)
        ]
        write_answers(folder / ANSWERS, rows, model=model)

    def add_score_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of ``toolkit.evaluation.score <name>``: files without pictures, options, ``--answers``."""
        for file in self.files:
            if file.kind != "images":
                parser.add_argument(f"--{file.role}", type=Path, required=file.required, help=file.about)
        for name, option in self.options.model_fields.items():
            parser.add_argument(f"--{name.replace('_', '-')}", help=option.description, default=argparse.SUPPRESS)
        parser.add_argument("--answers", type=Path, required=True, help="JSON lines of question_id and text")

    def score_existing(self, given: argparse.Namespace) -> dict[str, Any]:
        """Score an answers file; returns figures by metric, ``n``, ``unparsed``, ``protocol`` of the headline, notes.

        Raises:
            AnswerError: a file that cannot be used, or answers missing: there is no score over a part.
        """
        values = {role: path for role, path in vars(given).items() if path is not None}
        roles = [file.role for file in self.files if file.required or file.role in values]
        files = {role: values.get(role, Path()) for role in roles}
        options = self.options.parse({name: values[name] for name in self.options.model_fields if name in values})
        questions = self.read(files, options)
        scored = self.score(questions, matched(questions, given.answers))
        headline = scored.metrics[0]
        figures = {metric.name: metric.value for metric in scored.metrics}
        return {
            **figures, "n": headline.n, "unparsed": headline.unparsed, "protocol": headline.protocol, **scored.notes,
        }  # fmt: skip


def candidates(question: Question) -> tuple[str, ...]:
    """The right answer first, then the other options."""
    return tuple(dict.fromkeys(filter(None, (question.right, *question.options))))


def share(name: str, right: Sequence[float], parsed: Sequence[object], protocol: str) -> Metric:
    """The share of right answers in percent, with its counts."""
    unparsed = sum(said is None for said in parsed)
    return Metric(
        name=name, value=percent(math.fsum(right), len(right)), n=len(right), unparsed=unparsed, protocol=protocol
    )


def write_answers(path: Path, rows: Iterable[Mapping[str, Any]], *, model: str) -> None:
    """Write an answers file in LLaVA's layout; its keys ``answer_id``, ``model_id`` and ``metadata`` are added."""
    # The kit draws a random answer id; a number keeps the file equal from run to run.
    lines = [
        {**row, "answer_id": str(number), "model_id": model, "metadata": {}} for number, row in enumerate(rows)
    ]  # fmt: skip
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def matched(questions: Questions, path: Path) -> list[str]:
    """The answers of a file in the order of the questions; questions of one id take its answers in their order.

    Raises:
        AnswerError: answers that are missing, or that belong to no question.
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
