"""Questions of an evaluation. In: chosen benchmarks. Out: their checked questions.

Files are checked here, before a model is loaded: ``Benchmark.read`` checks all text, ``first_broken_image`` the images.
No torch is imported, so that a pipeline can check the files before it trains the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolkit.evaluation.benchmarks.protocol import Questions
from toolkit.evaluation.image_check import first_broken
from toolkit.evaluation.settings import ChosenBenchmark
from toolkit.questions.answer_files import AnswerError


@dataclass(frozen=True, kw_only=True)
class BenchmarkQuestions:
    """A chosen benchmark and its questions."""

    chosen: ChosenBenchmark
    questions: Questions


def read_benchmark(chosen: ChosenBenchmark) -> BenchmarkQuestions:
    """Read and check a benchmark's files, except the bytes of images.

    Raises:
        AnswerError: a file that cannot be used; names the file and the question.
    """
    questions = chosen.benchmark.read(chosen.files, chosen.options)
    if not questions.rows:
        raise AnswerError(f"{chosen.name}: its files hold no questions")
    return BenchmarkQuestions(chosen=chosen, questions=questions)


def read_benchmarks(chosen: Iterable[ChosenBenchmark]) -> list[BenchmarkQuestions]:
    """Read several benchmarks; see :func:`read_benchmark`."""
    return [read_benchmark(benchmark) for benchmark in chosen]


def first_broken_image(benchmarks: Sequence[BenchmarkQuestions]) -> tuple[str, str] | None:
    """Id of the first question with a broken image and the fault; None if there is none (see ``image_check``)."""
    return first_broken((row.id, row.image) for benchmark in benchmarks for row in benchmark.questions.rows)
