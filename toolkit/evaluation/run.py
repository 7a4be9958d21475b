"""Answers benchmarks with a checkpoint and scores the answers.

    python -m toolkit.evaluation.run --model DIR --output DIR --textvqa-questions q.jsonl --textvqa-annotations a.json
        --textvqa-images DIR --mmbench-table m.tsv [--benchmarks textvqa,mmbench] [--batch-size 128] [--device auto]
        [--dtype auto] [--cache-dir DIR] [--compiled] [--extension FILE.py]
    python -m toolkit.evaluation.run plan.json [plan.json …]      (see ``plan.EvaluationPlan``)

A benchmark is answered if its files are given; ``--benchmarks`` selects some. Out, under ``output``, per benchmark:
``<name>/questions.jsonl`` (one row per question: ``question_rows``) and its own formats, for the kit's two
``textvqa/answers.jsonl``, ``mmbench/answers.jsonl``, ``mmbench/upload.xlsx`` and ``.tsv``. Then ``results.json``::

    model, device, dtype
    seconds: answering and scoring, all benchmarks
    benchmarks: {name: files_sha256 by role, questions, answers, answers_per_s, seconds, files, chance level of each
        metric as far as known (``chance``), and notes}
    results: [{benchmark, metric, value, n, unparsed, protocol}, …]     per benchmark its headline metric first

Each benchmark is committed when it is finished (see ``units``), so a run that fails keeps the benchmarks before the
fault and a rerun continues. A benchmark is answered again only if the checkpoint, the generation settings, the code or
that benchmark's own files and options have changed (see ``keys``). ``results.json`` is assembled last, from all units
of this run in the output; the first benchmark that another checkpoint finishes removes the units of the earlier one.

Progress goes to stdout as JSON lines: ``loaded``, ``progress``, ``done``, ``error``. Exit code 2: the message names
what is missing or broken. Files and images are checked before the model is loaded. No benchmark is scored in part.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.committed_folder import file_hashes, locked
from toolkit.evaluation import output, units
from toolkit.evaluation.arguments import given_plans
from toolkit.evaluation.checkpoint_files import naming_damaged_files
from toolkit.evaluation.inputs import BenchmarkQuestions, first_broken_image, read_benchmarks
from toolkit.evaluation.keys import run_key, unit_key
from toolkit.evaluation.plan import EvaluationPlan, check_outputs, make_plan, read_plan
from toolkit.evaluation.question_rows import ROWS, likelihood_metrics, question_rows
from toolkit.evaluation.units import Unit, UnitLocation, finished
from toolkit.events import Emit, json_lines, tagged
from toolkit.file_errors import EnvironmentFault
from toolkit.files import sha256_once, write_atomically
from toolkit.images.reading import ImageError
from toolkit.jobs import jobs_for, limit_threads, run_all
from toolkit.models import architecture_of
from toolkit.progress import Pace
from toolkit.questions.answer_files import AnswerError, one_line
from toolkit.questions.prompts import Answer
from toolkit.registry import load_extensions

if TYPE_CHECKING:
    from toolkit.models.base import Answerer

__all__ = ["EvaluationPlan", "evaluate", "load", "main", "make_plan", "read_plan"]


def evaluate(plan: EvaluationPlan, emit: Emit) -> dict[str, Any]:
    """Answer and score what is not finished yet.

    Returns:
        What ``results.json`` holds.

    Raises:
        AnswerError: benchmark files that cannot be used, an output folder in use, or a device that does not exist.
        ImageError: an image that cannot be read; the message names the question.
        EnvironmentFault: the environment prevents reading an image.
    """
    began = time.monotonic()
    emit = tagged(emit, output=str(plan.output))
    benchmarks = read_benchmarks(plan.chosen())
    if broken := first_broken_image(benchmarks):
        raise ImageError(f"sample {broken[0]!r}: {broken[1]}; nothing has been answered")
    locations = _locations(plan, benchmarks)
    unfinished = [benchmark for benchmark in benchmarks if finished(locations[benchmark.chosen.name]) is None]
    with output.locked(plan.output):
        if unfinished:
            answerer = load(plan)
            facts = _facts(plan, answerer)
            loaded = {"event": "loaded", "model": str(plan.model), **facts}
            emit({**loaded, "seconds": round(time.monotonic() - began, 2)})
            for benchmark in unfinished:
                _answer_unit(plan, benchmark, locations[benchmark.chosen.name], answerer, facts, emit)
        results = output.write_results(plan, locations)
    emit({"event": "done", **results})
    return results


def _locations(plan: EvaluationPlan, benchmarks: Sequence[BenchmarkQuestions]) -> dict[str, UnitLocation]:
    """Where each benchmark's answers are kept, by name."""
    run = "" if all(benchmark.chosen.name in plan.units for benchmark in benchmarks) else run_key(plan)
    locations = {}
    for benchmark in benchmarks:
        name = benchmark.chosen.name
        if unit_settings := plan.units.get(name):
            locations[name] = UnitLocation(folder=unit_settings.folder, key=unit_settings.unit_key)
        else:
            locations[name] = UnitLocation(folder=plan.output / name, key=unit_key(run, benchmark), run=run)
    return locations


def _answer_unit(
    plan: EvaluationPlan,
    benchmark: BenchmarkQuestions,
    location: UnitLocation,
    answerer: Answerer,
    facts: dict[str, Any],
    emit: Emit,
) -> None:
    """Answer one benchmark and commit its unit, unless another process has done so meanwhile."""
    hashes = {role: sha256_once(path) for role, path in benchmark.chosen.given_files().items()}
    with locked(location.folder):
        if finished(location) is not None:
            return
        with units.temporary_folder(location.folder) as partial:
            entry, metrics = _run(benchmark, answerer, partial, emit, model=plan.model.name)
            unit = Unit(
                benchmark=benchmark.chosen.name, key=location.key, run=location.run, facts=facts,
                made={"files_sha256": hashes, **entry}, results=metrics, files=file_hashes(partial),
            )  # fmt: skip
            output.begin_commit(plan.output, location)
            units.commit(partial, location.folder, unit)


def _facts(plan: EvaluationPlan, answerer: Answerer) -> dict[str, Any]:
    model = answerer.model
    facts = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    return {**facts, **architecture_of(plan.model).facts(model)}


def load(plan: EvaluationPlan) -> Answerer:
    """Load the checkpoint onto its device, in evaluation mode.

    Raises:
        AnswerError: a damaged checkpoint, or a device that does not exist.
    """
    import torch

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise AnswerError("device: 'cuda' asked for, but torch sees no GPU here; use 'cpu' or 'auto'")
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    dtype = plan.dtype if plan.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    architecture = architecture_of(plan.model)
    with naming_damaged_files(plan.model):
        model = architecture.load_model(plan.model, getattr(torch, dtype))
        processor = architecture.load_processor(plan.model)
    model = model.eval().to("cuda" if on_gpu else "cpu")
    limit_threads(model.num_parameters(), on_cpu=not on_gpu)
    cache = architecture.feature_cache(plan.cache_dir, model, processor, "pad") if plan.cache_dir else None
    return architecture.answerer(
        model, processor, batch_size=plan.batch_size or (128 if on_gpu else 32),
        max_new_tokens=plan.max_new_tokens, cache=cache, workers=plan.workers, compiled=plan.compiled and on_gpu,
    )  # fmt: skip


def _run(
    asked: BenchmarkQuestions, answerer: Answerer, folder: Path, emit: Emit, *, model: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer, score and write one benchmark; returns its entry in ``results.json`` and the rows of its metrics."""
    began = time.monotonic()
    benchmark, questions = asked.chosen.benchmark, asked.questions
    answers, entry = _answers(asked, answerer, emit)
    texts = [answer.text for answer in answers]
    scored = benchmark.score(questions, texts)
    roots = [path for path in asked.chosen.files.values() if path.is_dir()]
    rows = question_rows(questions, answers, scored.right, roots)
    benchmark.write(folder, questions, texts, model=model)
    lines = (json.dumps(row.values(), ensure_ascii=False) + "\n" for row in rows)
    write_atomically(folder / ROWS, "".join(lines))
    metrics = [*scored.metrics, *likelihood_metrics(rows, questions.protocol)]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    seconds = round(time.monotonic() - began, 2)
    chance = dict(benchmark.chance(questions))
    return {**entry, "seconds": seconds, "files": files, "chance": chance, **scored.notes}, [
        {"benchmark": benchmark.name, "metric": (values := asdict(metric)).pop("name"), **values} for metric in metrics
    ]


def _answers(asked: BenchmarkQuestions, answerer: Answerer, emit: Emit) -> tuple[list[Answer], dict[str, Any]]:
    """The answers, and their counts and rate for ``results.json``."""
    pace = Pace()
    prompts = asked.chosen.benchmark.prompts(asked.questions)

    def rate(done: int) -> float:
        return round(pace.rate(done), 2)

    def on_batch(done: int) -> None:
        event = {"event": "progress", "benchmark": asked.chosen.name, "done": done, "total": len(prompts)}
        emit({**event, "answers_per_s": rate(done)})

    answers = answerer(prompts, on_batch)
    return answers, {"questions": len(prompts), "answers": len(answers), "answers_per_s": rate(len(answers))}


def _evaluate(plan: EvaluationPlan, emit: Emit) -> None:
    load_extensions(plan.extensions)
    evaluate(plan, emit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    emit = json_lines()
    try:
        plans, given_jobs = given_plans(arguments)
        if len(plans) > 1:
            for plan in plans:  # import heavy libraries once, before the plans are forked
                architecture_of(plan.model)

        check_outputs(plans)
        jobs = given_jobs or jobs_for(len(plans), on_cpu=all(plan.device == "cpu" for plan in plans))
        run_all(partial(_evaluate, emit=emit), plans, jobs)
    except (ValueError, OSError, EnvironmentFault) as error:
        message = one_line(error)
        emit({"event": "error", "kind": type(error).__name__, "message": message})
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
