"""Answers both benchmarks with a checkpoint and scores the answers.

    python -m toolkit.evaluate.run --model DIR --output DIR --textvqa-questions q.jsonl --textvqa-annotations a.json
        --textvqa-images DIR --mmbench m.tsv [--batch-size 128] [--device auto] [--dtype auto] [--cache-dir DIR]
        [--compiled]
    python -m toolkit.evaluate.run plan.json [plan.json …]      (the same names as keys, with underscores)

Either benchmark may be left out. Out, under ``output``, in the kit's formats: ``textvqa/answers.jsonl``,
``mmbench/answers.jsonl``, ``mmbench/upload.xlsx`` and ``.tsv``, and ``results.json``: per benchmark accuracy in
percent, n, protocol, missing and unparsed; hashes of the benchmark files, device, dtype and answers per second. They
replace an earlier run's output together, at the end; a run that fails leaves it as it was. Progress goes to stdout as
JSON lines: ``loaded``, ``progress``, ``done``, ``error``. Exit code 2 names what is missing or broken; files and
pictures are checked before the model is loaded, and there is no score over a part.
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

from toolkit.evaluate import mmbench, output, textvqa
from toolkit.evaluate.answer_files import AnswerError, one_line
from toolkit.evaluate.checkpoint_files import whole_checkpoint
from toolkit.evaluate.inputs import Benchmarks, answer_rows, first_broken_image, read_benchmarks
from toolkit.evaluate.plan import EvaluationPlan, check_outputs, make_plan, read_plan
from toolkit.evaluate.prompts import Prompt
from toolkit.events import Emit, json_lines, tagged
from toolkit.file_errors import EnvironmentFault
from toolkit.files import file_sha256, write_atomically, write_json
from toolkit.jobs import jobs_for, limit_threads, run_all

if TYPE_CHECKING:
    from toolkit.evaluate.generate import Answerer

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
    hashes = {name: file_sha256(path) for name, path in plan.files().items()}
    asked = _checked(plan)
    with output.replaced_together(plan.output) as folder:
        answerer = load(plan)
        results: dict[str, Any] = {
            "model": str(plan.model),
            "device": str(answerer.model.device),
            "dtype": str(answerer.model.dtype).removeprefix("torch."),
            "aux_drop_path": answerer.model.config.aux_drop_path,
        }
        emit({"event": "loaded", **results, "seconds": round(time.monotonic() - began, 2)})
        results["files_sha256"] = hashes
        if asked.textvqa is not None:
            results["textvqa"] = _run_textvqa(plan, answerer, asked, folder, emit)
        if asked.mmbench is not None:
            results["mmbench"] = _run_mmbench(plan, answerer, asked, folder, emit)
        results["seconds"] = round(time.monotonic() - began, 2)
        write_json(folder / output.RESULTS, results)
    emit({"event": "done", **results})
    return results


def _checked(plan: EvaluationPlan) -> Benchmarks:
    asked = read_benchmarks(
        questions=plan.textvqa_questions,
        annotations=plan.textvqa_annotations,
        images=plan.textvqa_images,
        mmbench=plan.mmbench,
    )
    if broken := first_broken_image(asked):
        from toolkit.mgm.images import ImageError

        raise ImageError(f"sample {broken[0]!r}: {broken[1]}; nothing has been answered")
    return asked


def load(plan: EvaluationPlan) -> Answerer:
    """The checkpoint on its device, in evaluation mode.

    Raises:
        AnswerError: a damaged checkpoint, or a device that is not there.
    """
    import torch

    from toolkit.data.feature_cache import FeatureCache
    from toolkit.evaluate.generate import Answerer
    from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
    from toolkit.mgm.processing_mgm import MGMProcessor

    if plan.device == "cuda" and not torch.cuda.is_available():
        raise AnswerError("device: 'cuda' asked for, but torch sees no GPU here; use 'cpu' or 'auto'")
    on_gpu = plan.device != "cpu" and torch.cuda.is_available()
    dtype = plan.dtype if plan.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    with whole_checkpoint(plan.model):
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

    answers = [answer.text for answer in answerer(prompts, on_batch)]
    return answers, {"questions": len(prompts), "answers": len(answers), "answers_per_s": rate(len(answers))}


def _run_textvqa(
    plan: EvaluationPlan, answerer: Answerer, asked: Benchmarks, folder: Path, emit: Emit
) -> dict[str, Any]:
    assert asked.textvqa and plan.textvqa_annotations
    prompts = [Prompt(id=str(question.id), image=question.image, text=question.text) for question in asked.textvqa]
    answers, made = _answers("textvqa", answerer, prompts, emit)
    rows = answer_rows(asked.textvqa, answers)
    _write_jsonl(
        folder / output.TEXTVQA_ANSWERS, [{**row, **_answer_tail(plan, number)} for number, row in enumerate(rows)]
    )
    result = textvqa.evaluate(plan.textvqa_annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"} | made


def _run_mmbench(
    plan: EvaluationPlan, answerer: Answerer, asked: Benchmarks, folder: Path, emit: Emit
) -> dict[str, Any]:
    table = asked.mmbench
    assert table is not None
    questions = table.drop(columns="image").to_dict("records")
    shown = [mmbench.prompt(question) for question in questions]
    prompts = [
        Prompt(id=question["index"], image=asked.pictures[question["index"]], text=f"{text}\n{mmbench.INSTRUCTION}")
        for question, text in zip(questions, shown, strict=True)
    ]
    answers, made = _answers("mmbench", answerer, prompts, emit)
    rows = []
    for number, (question, prompt, text) in enumerate(zip(questions, shown, answers, strict=True)):
        options = mmbench.options_of(question)
        letters = {"options": options, "option_char": list(mmbench.LETTERS[: len(options)])}
        row = {"question_id": int(question["index"]), "round_id": 0, "prompt": prompt, "text": text}
        rows.append({**row, **letters, **_answer_tail(plan, number)})
    _write_jsonl(folder / output.MMBENCH_ANSWERS, rows)
    mmbench.write_upload(mmbench.upload_table(table, answers), folder / output.MMBENCH_UPLOAD)
    given = [mmbench.Prediction(question["index"], text) for question, text in zip(questions, answers, strict=True)]
    result = mmbench.evaluate(given, table, prompt_name="letter asked for directly")
    return mmbench.mark_incomplete(result, table, one_order=True) | made


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
