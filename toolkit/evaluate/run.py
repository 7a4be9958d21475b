"""Answers both benchmarks with a checkpoint and scores the answers.

    python -m toolkit.evaluate.run --model DIR --output DIR --textvqa-questions q.jsonl --textvqa-annotations a.json
        --textvqa-images DIR --mmbench m.tsv [--batch-size 128] [--device auto] [--dtype auto] [--cache-dir DIR]
        [--compiled]
    python -m toolkit.evaluate.run plan.json [plan.json …]      (the same names as keys, with underscores)

Either benchmark may be left out. Out, under ``output``, in the kit's formats: ``textvqa/answers.jsonl``,
``mmbench/answers.jsonl``, ``mmbench/upload.xlsx`` and ``.tsv``, and, last, ``results.json``: per benchmark accuracy in
percent, n, protocol, missing and unparsed; device, dtype and answers per second. Progress goes to stdout as JSON lines:
``loaded``, ``progress``, ``done``, ``error``. Exit code 2 names what is missing, before anything is answered where that
can be told; there is no score over a part.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.evaluate import mmbench, textvqa
from toolkit.evaluate.answer_files import AnswerError, read_lines
from toolkit.evaluate.plan import EvaluationPlan, make_plan, read_plan
from toolkit.events import Emit, json_lines, tagged
from toolkit.file_errors import EnvironmentFault
from toolkit.files import write_atomically, write_json
from toolkit.jobs import jobs_for, limit_threads, run_all

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.evaluate.generate import Answerer, Prompt

__all__ = ["EvaluationPlan", "evaluate", "load", "main", "make_plan", "read_plan"]


def evaluate(plan: EvaluationPlan, emit: Emit) -> dict[str, Any]:
    """Answer and score; returns what ``results.json`` holds.

    Raises:
        AnswerError: benchmark files that do not fit together, or a device that is not there.
        ImageError: a picture that cannot be read; the message names the question.
    """
    began = time.monotonic()
    emit = tagged(emit, output=str(plan.output))
    questions = _textvqa_questions(plan) if plan.textvqa_questions else None
    table = mmbench.read_table(plan.mmbench) if plan.mmbench else None
    if table is not None:
        mmbench.check_answers(table)
    answerer = load(plan)
    model = answerer.model
    results: dict[str, Any] = {
        "model": str(plan.model),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "aux_drop_path": model.config.aux_drop_path,
    }
    emit({"event": "loaded", **results, "seconds": round(time.monotonic() - began, 2)})
    if questions is not None:
        results["textvqa"] = _run_textvqa(plan, answerer, questions, emit)
    if table is not None:
        results["mmbench"] = _run_mmbench(plan, answerer, table, emit)
    results["seconds"] = round(time.monotonic() - began, 2)
    write_json(plan.output / "results.json", results)
    emit({"event": "done", **results})
    return results


def load(plan: EvaluationPlan) -> Answerer:
    """The checkpoint on its device, in evaluation mode."""
    import torch

    from toolkit.data.feature_cache import FeatureCache
    from toolkit.evaluate.generate import Answerer
    from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
    from toolkit.mgm.processing_mgm import MGMProcessor

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise AnswerError("device: 'cuda' asked for, but torch sees no GPU here; use 'cpu' or 'auto'")
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    dtype = plan.dtype if plan.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    model: Any = MGMGemmaForCausalLM.from_pretrained(plan.model, dtype=getattr(torch, dtype))
    processor = MGMProcessor.from_pretrained(plan.model)
    model = model.eval().to("cuda" if on_gpu else "cpu")
    model.set_speed({"compiled": plan.compiled and on_gpu})
    limit_threads(model.num_parameters(), on_cpu=not on_gpu)
    cache = FeatureCache(plan.cache_dir, model, processor, "pad") if plan.cache_dir else None
    return Answerer(
        model=model, processor=processor, batch_size=plan.batch_size or (128 if on_gpu else 32),
        max_new_tokens=plan.max_new_tokens, cache=cache, workers=plan.workers,
    )  # fmt: skip


def _answers(name: str, answerer: Answerer, prompts: list[Prompt], emit: Emit) -> tuple[list[str], dict[str, Any]]:
    """The answers, and what ``results.json`` says of how they were made."""
    began = time.monotonic()

    def rate(done: int) -> float:
        return round(done / max(time.monotonic() - began, 1e-9), 2)

    def on_batch(done: int) -> None:
        event = {"event": "progress", "benchmark": name, "done": done, "total": len(prompts)}
        emit({**event, "answers_per_s": rate(done)})

    answers = answerer(prompts, on_batch)
    return answers, {"questions": len(prompts), "answers": len(answers), "answers_per_s": rate(len(answers))}


def _textvqa_questions(plan: EvaluationPlan) -> list[dict[str, Any]]:
    assert plan.textvqa_questions and plan.textvqa_annotations
    questions = read_lines(plan.textvqa_questions, ("question_id", "image", "text"), texts=("image", "text"))
    textvqa.match(plan.textvqa_annotations, [{**row, "prompt": row["text"]} for row in questions])
    return questions


def _run_textvqa(
    plan: EvaluationPlan, answerer: Answerer, questions: Sequence[dict[str, Any]], emit: Emit
) -> dict[str, Any]:
    from toolkit.evaluate.generate import Prompt

    assert plan.textvqa_images and plan.textvqa_annotations
    prompts = [
        Prompt(id=str(row["question_id"]), image=plan.textvqa_images / row["image"], text=row["text"])
        for row in questions
    ]
    answers, made = _answers("textvqa", answerer, prompts, emit)
    rows = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text, **_answer_tail(plan, number)}
        for number, (row, text) in enumerate(zip(questions, answers, strict=True))
    ]
    _write_jsonl(plan.output / "textvqa" / "answers.jsonl", rows)
    result = textvqa.evaluate(plan.textvqa_annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"} | made


def _run_mmbench(plan: EvaluationPlan, answerer: Answerer, table: pd.DataFrame, emit: Emit) -> dict[str, Any]:
    from toolkit.evaluate.generate import Prompt

    questions = table.to_dict("records")
    pictures = mmbench.pictures(table)
    asked = [mmbench.prompt(question) for question in questions]
    prompts = [
        Prompt(id=question["index"], image=pictures[question["index"]], text=f"{text}\n{mmbench.INSTRUCTION}")
        for question, text in zip(questions, asked, strict=True)
    ]
    answers, made = _answers("mmbench", answerer, prompts, emit)
    rows = []
    for number, (question, prompt, text) in enumerate(zip(questions, asked, answers, strict=True)):
        options = mmbench.options_of(question)
        shown = {"options": options, "option_char": list(mmbench.LETTERS[: len(options)])}
        row = {"question_id": int(question["index"]), "round_id": 0, "prompt": prompt, "text": text}
        rows.append({**row, **shown, **_answer_tail(plan, number)})
    _write_jsonl(plan.output / "mmbench" / "answers.jsonl", rows)
    mmbench.write_upload(mmbench.upload_table(table, answers), plan.output / "mmbench" / "upload")
    given = [mmbench.Prediction(question["index"], text) for question, text in zip(questions, answers, strict=True)]
    return mmbench.evaluate(given, table, prompt_name="letter asked for directly") | made


def _answer_tail(plan: EvaluationPlan, number: int) -> dict[str, Any]:
    # The kit draws a random answer id; a number keeps the file equal from run to run.
    return {"answer_id": str(number), "model_id": plan.model.name, "metadata": {}}


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _evaluate(plan: EvaluationPlan, emit: Emit) -> None:
    evaluate(plan, emit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.evaluate.run", description="Answer and score benchmarks.")
    parser.add_argument("plans", type=Path, nargs="*", help="JSON files, instead of the options")
    for field in fields(EvaluationPlan):
        option = f"--{field.name.replace('_', '-')}"
        if field.type == "bool":
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS)
            continue
        kind = int if str(field.type).startswith("int") else str
        parser.add_argument(option, type=kind, default=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=0, help="plans at once; one per core when all are on the CPU")
    given = vars(parser.parse_args(arguments))
    paths, given_jobs = given.pop("plans"), given.pop("jobs")
    emit = json_lines()
    try:
        plans = [read_plan(path) for path in paths] if paths else [make_plan(given)]
        if len(plans) > 1:
            import toolkit.evaluate.generate  # noqa: F401 (once, before the plans are forked)

        jobs = given_jobs or jobs_for(len(plans), on_cpu=all(plan.device == "cpu" for plan in plans))
        run_all(partial(_evaluate, emit=emit), plans, jobs)
    except (ValueError, KeyError, EnvironmentFault) as error:
        emit({"event": "error", "kind": type(error).__name__, "message": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
