"""Answering benchmarks with a tiny model: files, results, faults. How answers are made is in ``test_answers``."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from toolkit.evaluate import mmbench, score
from toolkit.evaluate.answer_files import AnswerError
from toolkit.evaluate.run import evaluate, main, make_plan
from toolkit.mgm.images import ImageError
from toolkit.mgm.tiny import save_tiny

TAIL = "\nReference OCR token: AB\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint and both benchmarks in their official layouts."""
    folder = tmp_path_factory.mktemp("bench")
    save_tiny(folder / "model", initializer_range=0.5)
    (folder / "images").mkdir()
    questions, annotations, rows = [], [], []
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (40, 40 + 9 * number, 3), dtype=np.uint8)
        path = folder / "images" / f"i{number}.png"
        Image.fromarray(values).save(path)
        question = "What is it" + "?" * (number + 1)
        questions.append({"question_id": f"i{number}", "image": path.name, "text": question + TAIL})
        annotations.append({"image_id": f"i{number}", "question": question, "answers": ["x"] * 10})
        for turn in range(2):
            row = {
                "index": str(number + turn * 1_000_000),
                "question": "Which?",
                "hint": "",
                "A": "a",
                "B": "b",
                "C": "c" * number,
            }
            image = base64.b64encode(path.read_bytes()).decode()
            rows.append({**row, "D": "", "answer": "AB"[turn], "split": "dev", "image": image})
    (folder / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (folder / "a.json").write_text(json.dumps({"dataset_version": "0.5.1", "dataset_type": "val", "data": annotations}))
    pd.DataFrame(rows).to_csv(folder / "m.tsv", sep="\t", index=False)
    return folder


def _values(bench: Path, output: Path) -> dict[str, Any]:
    values = {"model": bench / "model", "output": output, "mmbench": bench / "m.tsv", "batch_size": 4, "device": "cpu"}
    textvqa = {"questions": bench / "q.jsonl", "annotations": bench / "a.json", "images": bench / "images"}
    return {k: v if isinstance(v, int) else str(v) for k, v in values.items()} | {
        f"textvqa_{k}": str(v) for k, v in textvqa.items()
    }


def test_answers_from_cached_features_are_the_same_for_a_second_checkpoint(bench: Path, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        values = {**_values(bench, tmp_path / str(number)), "cache_dir": str(tmp_path / "cache")}
        results.append(evaluate(make_plan(values), lambda event: None)["mmbench"] | {"answers_per_s": None})
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
        assert len(files) == 6  # three files of TextVQA, three pictures of MMBench by their bytes
        results.append(files)
    assert results[:2] == results[2:]


def test_both_benchmarks_are_answered_scored_and_written(bench: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    results = evaluate(make_plan(_values(bench, tmp_path)), events.append)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (results["device"], results["dtype"], results["aux_drop_path"]) == ("cpu", "float32", "off")
    assert results["textvqa"] | {"accuracy": 0, "answers_per_s": 0} == {
        "accuracy": 0, "n": 3, "missing": 0, "unparsed": 0, "questions": 3, "answers": 3, "answers_per_s": 0,
        "protocol": "TextVQA 0.5.1 val, with OCR tokens, single word or phrase, leave-one-out",
    }  # fmt: skip
    bench_result = results["mmbench"]
    assert (bench_result["n"], bench_result["rows"], bench_result["missing"]) == (3, 6, 0)
    again = score.score_mmbench(tmp_path / "mmbench" / "answers.jsonl", bench / "m.tsv")
    assert bench_result["protocol"] == "MMBench dev, CircularEval, letter asked for directly"
    assert again["protocol"] == "MMBench dev, CircularEval, prompt not recorded"
    made = ("questions", "answers", "answers_per_s", "protocol")
    assert again == {k: v for k, v in bench_result.items() if k not in made} | {"protocol": again["protocol"]}
    assert score.score_textvqa(bench / "a.json", tmp_path / "textvqa" / "answers.jsonl")["n"] == 3
    upload = mmbench.read_table(tmp_path / "mmbench" / "upload.tsv")
    assert list(upload.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    answer = json.loads((tmp_path / "textvqa" / "answers.jsonl").read_text().splitlines()[0])
    assert list(answer) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    choice = json.loads((tmp_path / "mmbench" / "answers.jsonl").read_text().splitlines()[2])
    assert choice | {"text": "", "model_id": ""} == {
        "question_id": 1, "round_id": 0, "prompt": "Which?\nA. a\nB. b\nC. c", "text": "", "options": ["a", "b", "c"],
        "option_char": ["A", "B", "C"], "answer_id": "2", "model_id": "", "metadata": {},
    }  # fmt: skip
    assert [e["event"] for e in events] == ["loaded", "progress", "progress", "progress", "done"]


@pytest.mark.parametrize("benchmark", ["textvqa", "mmbench"])
def test_benchmark_files_that_do_not_fit_fail_before_anything_is_answered(
    bench: Path, tmp_path: Path, benchmark: str
) -> None:
    values = _values(bench, tmp_path / "out")
    if benchmark == "textvqa":
        lines = (bench / "q.jsonl").read_text().splitlines()
        (tmp_path / "q.jsonl").write_text("\n".join(lines[:2]))
        values["textvqa_questions"], message = str(tmp_path / "q.jsonl"), "1 of 3 questions have no answer"
    else:
        table = mmbench.read_table(bench / "m.tsv").drop(columns="answer")
        table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
        values["mmbench"], message = str(tmp_path / "m.tsv"), "column 'answer' is missing"
    events: list[dict[str, Any]] = []
    with pytest.raises(AnswerError, match=message):
        evaluate(make_plan(values), events.append)
    assert events == [] and not (tmp_path / "out").exists()


def test_unreadable_picture_is_named(bench: Path, tmp_path: Path) -> None:
    values = {**_values(bench, tmp_path / "out"), "textvqa_images": str(tmp_path)}
    with pytest.raises(ImageError, match=r"'i\d'.*i\d\.png"):
        evaluate(make_plan(values), lambda event: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mmbench": "none.tsv"}, r"mmbench: 'none\.tsv' is no file"),
        ({"model": "nowhere"}, "model: 'nowhere' holds no config"),
        ({"textvqa_images": None}, "TextVQA needs"),
        ({"modle": "x"}, r"unknown keys \['modle'\]"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown; use one of auto, float32, bfloat16"),
        ({"batch_size": 0}, "batch_size 0 is under 1"),
    ],
)
def test_faults_of_a_plan_are_named(bench: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        make_plan({**_values(bench, tmp_path), **change})


def test_pictures_may_refer_to_another_row() -> None:
    table = pd.DataFrame({"index": ["1", "1000001"], "image": [base64.b64encode(b"pixels").decode(), "1"]})
    assert mmbench.pictures(table) == {"1": b"pixels", "1000001": b"pixels"}
    with pytest.raises(AnswerError, match="row 5: its image is no base64"):
        mmbench.pictures(pd.DataFrame({"index": ["5"], "image": ["!"]}))


def test_command_reports_a_fault_as_an_event(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nowhere", "--output", "out", "--mmbench", __file__]) == 2
    assert json.loads(capfd.readouterr().out)["kind"] == "AnswerError"
