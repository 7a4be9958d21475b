"""Answers benchmarks with a checkpoint and scores the answers.

    python -m toolkit.evaluation.run --model DIR --output DIR --textvqa-questions q.jsonl --textvqa-annotations a.json
        --textvqa-images DIR --mmbench-table m.tsv [--benchmarks textvqa,mmbench] [--batch-size 128] [--device auto]
        [--dtype auto] [--cache-dir DIR] [--compiled] [--extension FILE.py]
    python -m toolkit.evaluation.run plan.json [plan.json …]      (see ``plan.EvaluationPlan``)

A benchmark is run when its files are given; ``--benchmarks`` names some of these. Out, under ``output``, per benchmark:
``<name>/questions.jsonl`` (one row per question: ``question_rows``) and its own formats, for the kit's two
``textvqa/answers.jsonl``, ``mmbench/answers.jsonl``, ``mmbench/upload.xlsx`` and ``.tsv``. Then ``results.json``::

    model, device, dtype, seconds
    benchmarks: {name: files_sha256 by role, questions, answers, answers_per_s, files, and notes, e.g. incomplete}
    results: [{benchmark, metric, value, n, unparsed, protocol}, …]     per benchmark its headline metric first

They replace an earlier run's output together, at the end; a run that fails leaves it as it was. Progress goes to stdout
as JSON lines: ``loaded``, ``progress``, ``done``, ``error``. Exit code 2 names what is missing or broken; files and
pictures are checked before the model is loaded, and there is no score over a part.
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

from toolkit.evaluation import output
from toolkit.evaluation.answer_files import AnswerError, one_line
from toolkit.evaluation.arguments import given_plans
from toolkit.evaluation.checkpoint_files import whole_checkpoint
from toolkit.evaluation.inputs import Asked, first_broken_image, read_benchmarks
from toolkit.evaluation.plan import EvaluationPlan, check_outputs, make_plan, read_plan
from toolkit.evaluation.prompts import Answer
from toolkit.evaluation.question_rows import ROWS, likelihood_metrics, question_rows
from toolkit.events import Emit, json_lines, tagged
from toolkit.file_errors import EnvironmentFault
from toolkit.files import file_sha256, write_atomically, write_json
from toolkit.jobs import jobs_for, limit_threads, run_all
from toolkit.models import architecture_of
from toolkit.registry import load_extensions

if TYPE_CHECKING:
    from toolkit.models.base import Answerer

__all__ = ["EvaluationPlan", "evaluate", "load", "main", "make_plan", "read_plan"]


def evaluate(plan: EvaluationPlan, emit: Emit) -> dict[str, Any]:
    """Answer and score; returns what ``results.json`` holds.

    Raises:
        AnswerError: benchmark files that cannot be used, an output folder in use, or a device that is not there.
        ImageError: a picture that cannot be read; the message names the question.
        EnvironmentFault: the environment keeps a picture from us.
    """
    began = time.monotonic()
    emit = tagged(emit, output=str(plan.output))
    chosen = plan.chosen()
    hashes = {one.name: {role: file_sha256(path) for role, path in one.given_files().items()} for one in chosen}
    asked = read_benchmarks(chosen)
    if broken := first_broken_image(asked):
        from toolkit.models.mgm.images import ImageError

        raise ImageError(f"sample {broken[0]!r}: {broken[1]}; nothing has been answered")
    with output.replaced_together(plan.output) as folder:
        answerer = load(plan)
        results: dict[str, Any] = {"model": str(plan.model), **_facts(plan, answerer)}
        emit({"event": "loaded", **results, "seconds": round(time.monotonic() - began, 2)})
        results |= {"benchmarks": {}, "results": []}
        for one in asked:
            made, metrics = _run(one, answerer, folder / one.chosen.name, emit, model=plan.model.name)
            results["benchmarks"][one.chosen.name] = {"files_sha256": hashes[one.chosen.name], **made}
            results["results"] += metrics
        results["seconds"] = round(time.monotonic() - began, 2)
        write_json(folder / output.RESULTS, results)
    emit({"event": "done", **results})
    return results


def _facts(plan: EvaluationPlan, answerer: Answerer) -> dict[str, Any]:
    model = answerer.model
    facts = {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
    return {**facts, **architecture_of(plan.model).facts(model)}


def load(plan: EvaluationPlan) -> Answerer:
    """The checkpoint on its device, in evaluation mode.

    Raises:
        AnswerError: a damaged checkpoint, or a device that is not there.
    """
    import torch

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise AnswerError("device: 'cuda' asked for, but torch sees no GPU here; use 'cpu' or 'auto'")
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    dtype = plan.dtype if plan.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    architecture = architecture_of(plan.model)
    with whole_checkpoint(plan.model):
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
    asked: Asked, answerer: Answerer, folder: Path, emit: Emit, *, model: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer one benchmark, score and write it; returns facts on how, and the rows of its metrics."""
    benchmark, questions = asked.chosen.benchmark, asked.questions
    answers, made = _answers(asked, answerer, emit)
    texts = [answer.text for answer in answers]
    scored = benchmark.score(questions, texts)
    roots = [path for path in asked.chosen.files.values() if path.is_dir()]
    rows = question_rows(questions, answers, scored.right, roots)
    folder.mkdir(parents=True)
    benchmark.write(folder, questions, texts, model=model)
    lines = (json.dumps(row.values(), ensure_ascii=False) + "\n" for row in rows)
    write_atomically(folder / ROWS, "".join(lines))
    metrics = [*scored.metrics, *likelihood_metrics(rows, questions.protocol)]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {**made, "files": files, **scored.notes}, [
        {"benchmark": benchmark.name, "metric": (values := asdict(metric)).pop("name"), **values} for metric in metrics
    ]


def _answers(asked: Asked, answerer: Answerer, emit: Emit) -> tuple[list[Answer], dict[str, Any]]:
    """The answers, and what ``results.json`` says of how they were made."""
    began = time.monotonic()
    prompts = asked.chosen.benchmark.prompts(asked.questions)

    def rate(done: int) -> float:
        return round(done / max(time.monotonic() - began, 1e-9), 2)

    def on_batch(done: int) -> None:
        event = {"event": "progress", "benchmark": asked.chosen.name, "done": done, "total": len(prompts)}
        emit({**event, "answers_per_s": rate(done)})

    answers = answerer(prompts, on_batch)
    return answers, {"questions": len(prompts), "answers": len(answers), "answers_per_s": rate(len(answers))}


def _evaluate(plan: EvaluationPlan, emit: Emit) -> None:
    load_extensions(plan.extensions)
    evaluate(plan, emit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    emit = json_lines()
    try:
        plans, given_jobs = given_plans(arguments)
        if len(plans) > 1:
            for plan in plans:  # the heavy imports once, before the plans are forked
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
