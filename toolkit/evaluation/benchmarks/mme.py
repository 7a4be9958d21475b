"""MME: two yes/no questions about each image, one true and one false, in 14 subtasks (arXiv 2306.13394).

In: one folder with either the release (``existence/000000006040.jpg`` and ``.txt`` of two lines "question, tab,
answer"; some subtasks keep them in ``images`` and ``questions_answers_YN``) or the Parquet files of the public data
set (``question_id``, ``image``, ``question``, ``answer``, ``category``). Subtasks without files are left out, and the
protocol names their number.

The score of a subtask is accuracy + accuracy+, in percent, so [0, 200]; accuracy+ is the share of images with both
answers right. Perception is the sum over ten subtasks, [0, 2000], cognition over four, [0, 800]; the headline is the
sum of both. Answers are parsed as by the official ``calculation.py``: "yes", else "no", within the first four
characters, lower-cased. The prompt is LLaVA's, which replaces "Please answer yes or no." by its own instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from toolkit.evaluation.benchmarks import chance
from toolkit.evaluation.benchmarks.protocol import (
    ANSWERS,
    Benchmark,
    File,
    Metric,
    Question,
    Questions,
    Scored,
    share,
)
from toolkit.files import write_atomically
from toolkit.questions.answer_files import DECIMALS, AnswerError, percent
from toolkit.questions.prompt_text import clean_prompt

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
SUMS = {"score": TASKS, "perception": PERCEPTION, "cognition": COGNITION}
"""Subtasks of each sum, by its name."""
SUFFIX = "Please answer yes or no."
INSTRUCTION = "Answer the question using a single word or phrase."
"""LLaVA's replacement of ``SUFFIX``."""
UPLOAD = "Your_Results"
"""Folder with one text file per subtask, the input of the official ``calculation.py``."""
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")


class MME(Benchmark):
    """``Question.fields`` has the subtask, the name of the image, and the question as in the files."""

    name = "mme"
    title = "MME"
    files = (
        File(role="root", about="MME_Benchmark_release_version, or the folder of the Parquet files", kind="folder"),
    )
    output_files = (ANSWERS, *(f"{UPLOAD}/{task}.txt" for task in TASKS))
    from_questions = None
    other_metrics: ClassVar = {"accuracy": "mean", "accuracy_plus": None}

    def read(self, files: Mapping[str, Path], options: Any) -> Questions:
        """Read all subtasks that have files."""
        root = files["root"]
        tables = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
        rows = list(_from_parquet(tables) if tables else _from_folders(root))
        _check_pairs(rows, root)
        tasks = [task for task in TASKS if any(row.fields["task"] == task for row in rows)]
        ordered = [row for task in tasks for row in rows if row.fields["task"] == task]
        return Questions(rows=ordered, protocol=f"MME, {len(tasks)} of {len(TASKS)} subtasks, single word or phrase")

    def parse(self, question: Question, text: str) -> str | None:
        """Yes, No or None by the official rule."""
        beginning = text.lower()[:4]
        return "Yes" if "yes" in beginning else "No" if "no" in beginning else None

    def score(self, questions: Questions, answers: Sequence[str]) -> Scored:
        """Score, accuracy and accuracy+ of each subtask, and the sums."""
        parsed = [self.parse(row, text) for row, text in zip(questions.rows, answers, strict=True)]
        right = [float(answer == row.right) for row, answer in zip(questions.rows, parsed, strict=True)]
        by_task: list[Metric] = []
        sums: dict[str, float] = {}
        tasks = dict.fromkeys(row.fields["task"] for row in questions.rows)
        for task in tasks:
            indices = [i for i, row in enumerate(questions.rows) if row.fields["task"] == task]
            subset = [questions.rows[i] for i in indices], [right[i] for i in indices], [parsed[i] for i in indices]
            accuracy, accuracy_plus = _both(f"/{task}", *subset, questions.protocol)
            sums[task] = accuracy.value + accuracy_plus.value
            by_task += [_sum(f"score/{task}", [sums[task]], accuracy, accuracy.n), accuracy, accuracy_plus]
        accuracy, accuracy_plus = _both("", questions.rows, right, parsed, questions.protocol)
        totals = [
            _sum(name, [sums[task] for task in sums if task in subset], accuracy, sum(
                row.fields["task"] in subset for row in questions.rows
            ))
            for name, subset in SUMS.items()
            if any(task in subset for task in sums)
        ]  # fmt: skip
        absent = [task for task in TASKS if task not in tasks]
        return Scored(
            metrics=[*totals, accuracy, accuracy_plus, *by_task], right=right, notes={"absent_subtasks": absent}
        )

    def chance(self, questions: Questions) -> dict[str, float]:
        """Of accuracy and accuracy+ over all questions and over each subtask, and of their sums."""
        levels, sums = dict(_chance("", questions.rows)), {}
        for task in dict.fromkeys(row.fields["task"] for row in questions.rows):
            of_task = _chance(f"/{task}", [row for row in questions.rows if row.fields["task"] == task])
            sums[task] = math.fsum(of_task.values())
            levels |= {f"score/{task}": sums[task], **of_task}
        for name, subset in SUMS.items():
            if any(task in subset for task in sums):
                levels[name] = round(math.fsum(sums[task] for task in sums if task in subset), DECIMALS)
        return levels

    def write(self, folder: Path, questions: Questions, answers: Sequence[str], *, model: str) -> None:
        """Write LLaVA's answers file and the official tool's lines: image, question, right answer, answer."""
        super().write(folder, questions, answers, model=model)
        lines: dict[str, list[str]] = {}
        for row, text in zip(questions.rows, answers, strict=True):
            columns = (row.fields["picture"], row.fields["question"], row.right, " ".join(text.split()))
            lines.setdefault(row.fields["task"], []).append("\t".join(columns) + "\n")
        (folder / UPLOAD).mkdir(parents=True, exist_ok=True)
        for task, task_lines in lines.items():
            write_atomically(folder / UPLOAD / f"{task}.txt", "".join(task_lines))


def _both(
    suffix: str, rows: Sequence[Question], right: Sequence[float], parsed: Sequence[str | None], protocol: str
) -> tuple[Metric, Metric]:
    """Accuracy over questions and accuracy+ over images; the two questions of an image are adjacent."""
    pairs = [float(all(right[i : i + 2])) for i in range(0, len(rows), 2)]
    accuracy = share(f"accuracy{suffix}", right, parsed, protocol)
    accuracy_plus = Metric(
        name=f"accuracy_plus{suffix}", value=percent(math.fsum(pairs), len(pairs)), n=len(pairs),
        unparsed=accuracy.unparsed, protocol=f"{protocol}, pictures with both right",
    )  # fmt: skip
    return accuracy, accuracy_plus


def _chance(suffix: str, rows: Sequence[Question]) -> dict[str, float]:
    """Chance levels of the metrics of ``_both``."""
    return {
        f"accuracy{suffix}": chance.of_options(rows),
        f"accuracy_plus{suffix}": chance.of_groups(rows, lambda row: row.id),
    }


def _sum(name: str, values: Sequence[float], like: Metric, n: int) -> Metric:
    protocol = f"{like.protocol}, sum of accuracy and accuracy+, {200 * len(values)} at most"
    return Metric(name=name, value=round(math.fsum(values), DECIMALS), n=n, unparsed=like.unparsed, protocol=protocol)


def _from_folders(root: Path) -> Iterator[Question]:
    inside = root / "MME_Benchmark"
    root = inside if inside.is_dir() else root
    for task in TASKS:
        separate = (root / task / "questions_answers_YN").is_dir()
        texts, images = (root / task / name if separate else root / task for name in ("questions_answers_YN", "images"))
        for path in sorted(texts.glob("*.txt")):
            image = next((p for end in IMAGE_SUFFIXES if (p := images / f"{path.stem}{end}").is_file()), None)
            if image is None:
                raise AnswerError(f"{path}: no image {path.stem} of {', '.join(IMAGE_SUFFIXES)} in {images}")
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    question, _, answer = line.strip().rpartition("\t")
                    yield _question(task, image.name, image, question, answer, where=str(path))


def _from_parquet(tables: Sequence[Path]) -> Iterator[Question]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in tables:
        try:
            rows = pq.read_table(path, columns=["question_id", "image", "question", "answer", "category"]).to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise AnswerError(f"{path}: not a Parquet file of MME: {error}") from None
        for row in rows:
            name = row["question_id"].rpartition("/")[2]
            yield _question(
                row["category"], name, row["image"]["bytes"], row["question"], row["answer"], where=f"{path}, {name}"
            )


def _question(task: str, image_name: str, image: Path | bytes, question: str, answer: str, *, where: str) -> Question:
    right = answer.strip().capitalize()
    if task not in TASKS or right not in ("Yes", "No") or not question.strip():
        raise AnswerError(f"{where}: {question!r}, {answer!r} in {task!r} is no question of MME with a yes or no")
    text = clean_prompt(question.replace(SUFFIX, "").strip(), where=where)
    fields = {"task": task, "picture": image_name, "question": question.strip()}
    return Question(
        id=f"{task}/{image_name}", image=image, text=f"{text}\n{INSTRUCTION}", right=right, options=("Yes", "No"),
        fields=fields,
    )  # fmt: skip


def _check_pairs(rows: list[Question], root: Path) -> None:
    """Sort the rows so that the two questions of each image are adjacent.

    Raises:
        AnswerError: an image that does not have two questions, or no questions at all.
    """
    if not rows:
        raise AnswerError(f"{root}: holds no folder of a subtask of MME with texts, and no Parquet file")
    groups: dict[str, list[Question]] = {}
    for row in rows:
        groups.setdefault(row.id, []).append(row)
    for id_, questions in groups.items():
        if len(questions) != 2:
            raise AnswerError(f"{root}: {id_} has {len(questions)} questions; MME asks two about each image")
    rows[:] = [row for questions in groups.values() for row in questions]


MME_BENCHMARK = MME()
