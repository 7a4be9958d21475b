"""Answers both benchmarks with a checkpoint and scores the answers.

    python -m toolkit.evaluate.run --model DIR --output DIR --textvqa-questions q.jsonl --textvqa-annotations a.json
        --textvqa-images DIR --mmbench m.tsv [--batch-size 32] [--device auto] [--dtype float32]
        [--cache-dir DIR]
    python -m toolkit.evaluate.run plan.json [plan.json …]      (the same names as keys, with underscores)

Either benchmark may be left out. Out, under ``output``: ``textvqa/answers.jsonl`` (kit format),
``mmbench/answers.jsonl``, ``mmbench/upload.xlsx`` and ``.tsv``, and, last, ``results.json``: per benchmark accuracy in
percent, n, protocol, missing, and for MMBench what was unparsed. Progress goes to stdout as JSON lines: ``progress``,
``done``, ``error``. Exit code 2 names what is missing; there is no score over a part.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.evaluate import mmbench, textvqa
from toolkit.evaluate.textvqa import AnswerError
from toolkit.events import Emit, json_lines, tagged
from toolkit.files import write_atomically, write_json
from toolkit.jobs import jobs_for, limit_threads, run_all

if TYPE_CHECKING:
    from toolkit.evaluate.generate import Answerer, Prompt

_FILES = ("textvqa_questions", "textvqa_annotations", "mmbench")
_TEXTVQA = ("textvqa_questions", "textvqa_annotations", "textvqa_images")


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate, and where; see the module's text."""

    model: Path
    output: Path
    textvqa_questions: Path | None = None
    textvqa_annotations: Path | None = None
    textvqa_images: Path | None = None
    mmbench: Path | None = None
    cache_dir: Path | None = None
    batch_size: int = 32
    device: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        given = [name for name in _TEXTVQA if getattr(self, name) is not None]
        if given and len(given) < len(_TEXTVQA):
            raise AnswerError(f"TextVQA needs {', '.join(_TEXTVQA)}; only {', '.join(given)} is given")
        if not given and self.mmbench is None:
            raise AnswerError("nothing to evaluate; give the files of TextVQA or of MMBench, or of both")
        for name in _FILES:
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise AnswerError(f"{name}: {str(path)!r} is no file")
        if not (self.model / "config.json").is_file():
            raise AnswerError(f"model: {str(self.model)!r} holds no config.json; give an MGM checkpoint")
        if self.batch_size < 1:
            raise AnswerError(f"batch_size {self.batch_size} is not positive")
        for name, known in (("device", ("auto", "cpu", "cuda")), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise AnswerError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(known)}")


def evaluate(plan: EvaluationPlan, emit: Emit) -> dict[str, Any]:
    """Answer and score; returns what ``results.json`` holds.

    Raises:
        AnswerError: benchmark files that do not fit together, or a device that is not there.
        ImageError: a picture that cannot be read; the message names the question.
    """
    began = time.monotonic()
    emit = tagged(emit, output=str(plan.output))
    answerer = load(plan)
    results: dict[str, Any] = {"model": str(plan.model), "dtype": plan.dtype, "device": str(answerer.model.device)}
    if plan.textvqa_questions is not None:
        results["textvqa"] = _run_textvqa(plan, answerer, emit)
    if plan.mmbench is not None:
        results["mmbench"] = _run_mmbench(plan, answerer, emit)
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
    wanted = "cuda" if plan.device == "auto" and torch.cuda.is_available() else plan.device.replace("auto", "cpu")
    model: Any = MGMGemmaForCausalLM.from_pretrained(plan.model, dtype=getattr(torch, plan.dtype))
    processor = MGMProcessor.from_pretrained(plan.model)
    model = model.eval().to(wanted)
    limit_threads(model.num_parameters(), on_cpu=wanted == "cpu")
    cache = FeatureCache(plan.cache_dir, model, processor, "pad") if plan.cache_dir else None
    return Answerer(model=model, processor=processor, batch_size=plan.batch_size, cache=cache)


def _answers(name: str, answerer: Answerer, prompts: list[Prompt], emit: Emit) -> list[str]:
    began = time.monotonic()

    def on_batch(done: int) -> None:
        rate = done / max(time.monotonic() - began, 1e-9)
        event = {"event": "progress", "benchmark": name, "done": done, "total": len(prompts)}
        emit({**event, "answers_per_s": round(rate, 2)})

    return answerer(prompts, on_batch)


def _run_textvqa(plan: EvaluationPlan, answerer: Answerer, emit: Emit) -> dict[str, Any]:
    from toolkit.evaluate.generate import Prompt

    assert plan.textvqa_questions and plan.textvqa_images and plan.textvqa_annotations
    questions = [json.loads(line) for line in plan.textvqa_questions.read_bytes().split(b"\n") if line.strip()]
    prompts = [
        Prompt(id=str(row["question_id"]), image=plan.textvqa_images / row["image"], text=row["text"])
        for row in questions
    ]
    answers = _answers("textvqa", answerer, prompts, emit)
    rows = [
        {"question_id": row["question_id"], "prompt": row["text"], "text": text, **_answer_tail(plan, number)}
        for number, (row, text) in enumerate(zip(questions, answers, strict=True))
    ]
    _write_jsonl(plan.output / "textvqa" / "answers.jsonl", rows)
    result = textvqa.evaluate(plan.textvqa_annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"} | {
        "questions": len(rows),
        "answers": len(rows),
    }


def _run_mmbench(plan: EvaluationPlan, answerer: Answerer, emit: Emit) -> dict[str, Any]:
    from toolkit.evaluate.generate import Prompt

    assert plan.mmbench is not None
    table = mmbench.read_table(plan.mmbench)
    rows = table.to_dict("records")
    pictures = mmbench.pictures(table)
    prompts = [Prompt(id=row["index"], image=pictures[row["index"]], text=mmbench.prompt(row)) for row in rows]
    answers = _answers("mmbench", answerer, prompts, emit)
    folder = plan.output / "mmbench"
    records = [
        {"question_id": int(row["index"]), "prompt": prompt.text, "text": text, **_answer_tail(plan, number)}
        for number, (row, prompt, text) in enumerate(zip(rows, prompts, answers, strict=True))
    ]
    _write_jsonl(folder / "answers.jsonl", records)
    upload = mmbench.upload_table(table, answers)
    mmbench.write_upload(upload, folder / "upload")
    result = mmbench.evaluate(upload, table)
    return result | {"questions": len(table), "answers": len(upload)}


def _answer_tail(plan: EvaluationPlan, number: int) -> dict[str, Any]:
    # The kit draws a random answer id; a number keeps the file equal from run to run.
    return {"answer_id": str(number), "model_id": plan.model.name, "metadata": {}}


def _write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_plan(path: Path) -> EvaluationPlan:
    """Read a plan from a JSON file.

    Raises:
        AnswerError: no JSON, an unknown or missing key, or a fault in the plan.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise AnswerError(f"{path}: cannot be read as JSON ({error})") from error
    return make_plan(values)


def make_plan(values: dict[str, Any]) -> EvaluationPlan:
    """Build a plan from plain values."""
    known = {field.name: str(field.type) for field in fields(EvaluationPlan)}
    unknown, missing = sorted(set(values) - set(known)), sorted({"model", "output"} - set(values))
    if unknown or missing:
        raise AnswerError(f"unknown keys {unknown}, missing keys {missing}; known are {', '.join(known)}")
    paths = {k: Path(v) for k, v in values.items() if v is not None and "Path" in known[k]}
    return EvaluationPlan(**{**values, **paths})


def _evaluate(plan: EvaluationPlan, emit: Emit) -> None:
    evaluate(plan, emit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.evaluate.run", description="Answer and score benchmarks.")
    parser.add_argument("plans", type=Path, nargs="*", help="JSON files, instead of the options")
    for field in fields(EvaluationPlan):
        kind = int if field.name == "batch_size" else str
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS)
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
    except (ValueError, KeyError) as error:
        emit({"event": "error", "kind": type(error).__name__, "message": str(error)})
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
