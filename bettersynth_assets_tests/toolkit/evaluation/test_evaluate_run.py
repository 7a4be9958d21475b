"""Answering benchmarks with a tiny model: files, results, faults. ``models/mgm/test_answerer.py`` tests the answers."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from bettersynth_assets_tests.helpers.broken_pictures import png_without_pixels
from toolkit.evaluation.benchmarks.mmbench.benchmark import score_mmbench
from toolkit.evaluation.benchmarks.mmbench.table import read_images, read_table
from toolkit.evaluation.benchmarks.textvqa.benchmark import score_textvqa
from toolkit.evaluation.output import locked
from toolkit.evaluation.run import evaluate, main, make_plan
from toolkit.images.reading import ImageError
from toolkit.models.mgm.tiny import save_tiny
from toolkit.questions.answer_files import AnswerError


def _values(bench: Path, output: Path) -> dict[str, Any]:
    textvqa = {"questions": bench / "q.jsonl", "annotations": bench / "a.json", "images": bench / "images"}
    benchmarks = {
        "textvqa": {role: str(path) for role, path in textvqa.items()},
        "mmbench": {"table": str(bench / "m.tsv")},
    }
    return {
        "model": str(bench / "model"), "output": str(output), "batch_size": 4, "device": "cpu",
        "max_new_tokens": 4,  # the random model hardly ever ends an answer by itself
        "benchmarks": benchmarks,
    }  # fmt: skip


def _changed(values: dict[str, Any], benchmark: str, **change: Any) -> dict[str, Any]:
    """Return the values with other settings of a benchmark; None removes one, and no changes remove the benchmark."""
    benchmarks = dict(values["benchmarks"])
    if change:
        benchmarks[benchmark] = {**benchmarks[benchmark], **change}
    else:
        del benchmarks[benchmark]
    return {**values, "benchmarks": benchmarks}


def _metrics(results: dict[str, Any], benchmark: str) -> dict[str, Any]:
    return {row["metric"]: row for row in results["results"] if row["benchmark"] == benchmark}


@pytest.mark.slow
def test_cached_features_give_a_second_checkpoint_the_same_answers(bench: Path, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        values = {**_values(bench, tmp_path / str(number)), "cache_dir": str(tmp_path / "cache")}
        results.append(_metrics(evaluate(make_plan(values), lambda event: None), "mmbench"))
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
        assert len(files) == 6  # three files of TextVQA, three images of MMBench by their bytes
        results.append(files)
    assert results[:2] == results[2:]


@pytest.mark.slow
def test_both_benchmarks_are_answered_scored_and_written(bench: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    results = evaluate(make_plan(_values(bench, tmp_path)), events.append)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (results["device"], results["dtype"], results["aux_drop_path"]) == ("cpu", "float32", "off")
    assert results["results"][0] | {"value": 0} == {
        "benchmark": "textvqa", "metric": "accuracy", "value": 0, "n": 3, "unparsed": 0,
        "protocol": "TextVQA 0.5.1 val, with OCR tokens, single word or phrase, leave-one-out",
    }  # fmt: skip
    counts = results["benchmarks"]["mmbench"]
    assert (counts["questions"], counts["answers"], counts["missing"]) == (6, 6, 0)
    found = _metrics(results, "mmbench")
    assert (found["accuracy"]["n"], found["row_accuracy"]["n"]) == (3, 6)
    again = score_mmbench(tmp_path / "mmbench" / "answers.jsonl", bench / "m.tsv")
    assert found["accuracy"]["protocol"] == "MMBench dev, CircularEval, letter asked for directly"
    assert again["protocol"] == "MMBench dev, CircularEval, prompt not recorded"
    assert (again["accuracy"], again["row_accuracy"]) == (found["accuracy"]["value"], found["row_accuracy"]["value"])
    assert (again["n"], again["rows"], again["unparsed"]) == (3, 6, found["accuracy"]["unparsed"])
    assert score_textvqa(bench / "a.json", tmp_path / "textvqa" / "answers.jsonl")["n"] == 3
    upload = read_table(tmp_path / "mmbench" / "upload.tsv")
    assert list(upload.columns) == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    answer = json.loads((tmp_path / "textvqa" / "answers.jsonl").read_text().splitlines()[0])
    assert list(answer) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    choice = json.loads((tmp_path / "mmbench" / "answers.jsonl").read_text().splitlines()[2])
    assert choice | {"text": "", "model_id": ""} == {
        "question_id": 1, "round_id": 0, "prompt": "Which?\nA. a\nB. b\nC. c", "text": "", "options": ["a", "b", "c"],
        "option_char": ["A", "B", "C"], "answer_id": "2", "model_id": "", "metadata": {},
    }  # fmt: skip
    rows = list(map(json.loads, (tmp_path / "mmbench" / "questions.jsonl").read_text().splitlines()))
    assert [(row["question_id"], list(row["options"])) for row in rows[2:4]] == [
        ("1", ["A", "B", "C"]), ("1000001", ["A", "B", "C"]),
    ]  # fmt: skip
    assert rows[2]["cluster_id"] == rows[3]["cluster_id"] != rows[4]["cluster_id"]
    assert all(row["log_probability"] == row["options"]["AB"[int(row["question_id"]) // 1_000_000]] for row in rows)
    assert [e["event"] for e in events] == ["loaded", "progress", "progress", "progress", "done"]


@pytest.mark.parametrize("benchmark", ["textvqa", "mmbench"])
def test_inconsistent_benchmark_files_fail_before_any_question_is_answered(
    bench: Path, tmp_path: Path, benchmark: str
) -> None:
    values = _values(bench, tmp_path / "out")
    if benchmark == "textvqa":
        lines = (bench / "q.jsonl").read_text().splitlines()
        (tmp_path / "q.jsonl").write_text("\n".join(lines[:2]))
        values, message = (
            _changed(values, "textvqa", questions=str(tmp_path / "q.jsonl")),
            "1 of 3 questions have no answer",
        )
    else:
        table = read_table(bench / "m.tsv").drop(columns="answer")
        table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
        values, message = _changed(values, "mmbench", table=str(tmp_path / "m.tsv")), "column 'answer' is missing"
    events: list[dict[str, Any]] = []
    with pytest.raises(AnswerError, match=message):
        evaluate(make_plan(values), events.append)
    assert events == [] and not (tmp_path / "out").exists()


def test_an_unreadable_image_is_named(bench: Path, tmp_path: Path) -> None:
    values = _changed(_values(bench, tmp_path / "out"), "textvqa", images=str(tmp_path))
    with pytest.raises(ImageError, match=r"'i\d'.*i\d\.png"):
        evaluate(make_plan(values), lambda event: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": {"mmbench": {"table": "none.tsv"}}}, r"mmbench\.table: 'none\.tsv' is no file"),
        (
            {"benchmarks": {"mmbench": {"tabel": "m.tsv"}}},
            r"benchmarks\.mmbench: .*unknown key 'tabel': did you mean 'table'",
        ),
        ({"benchmarks": {"mmbnch": {}}}, r"unknown benchmark 'mmbnch': did you mean 'mmbench'"),
        ({"benchmarks": {}}, "nothing to evaluate: give the files of at least one benchmark"),
        ({"mmbench": "m.tsv"}, r"mmbench has moved: write benchmarks: \{mmbench: \{table: …\}\}"),
        ({"textvqa_images": "i"}, r"textvqa_images has moved: write benchmarks: \{textvqa: \{images: …\}\}"),
        ({"model": "nowhere"}, "model: 'nowhere' holds no config"),
        ({"benchmarks": {"textvqa": {"images": "i"}}}, r"benchmarks\.textvqa: key 'questions' is missing"),
        ({"modle": "x"}, "unknown key 'modle': did you mean 'model'"),
        ({"device": "tpu"}, "device = 'tpu': .*'auto', 'cpu' or 'cuda'"),
        ({"dtype": "float16"}, "dtype = 'float16': .*'auto', 'float32' or 'bfloat16'"),
        ({"batch_size": 0}, "batch_size = 0: .*greater than or equal to 1"),
    ],
)
def test_faults_of_a_plan_are_named(bench: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        make_plan({**_values(bench, tmp_path), **change})


def test_an_image_may_refer_to_another_row() -> None:
    table = pd.DataFrame({"index": ["1", "1000001"], "image": [base64.b64encode(b"pixels").decode(), "1"]})
    assert read_images(table) == {"1": b"pixels", "1000001": b"pixels"}
    with pytest.raises(AnswerError, match="row 5: its image is no base64"):
        read_images(pd.DataFrame({"index": ["5"], "image": ["!"]}))


def test_the_command_reports_a_fault_as_an_event(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nowhere", "--output", "out", "--mmbench-table", __file__]) == 2
    assert json.loads(capfd.readouterr().out)["kind"] == "AnswerError"


FILES = ("textvqa/answers.jsonl", "mmbench/answers.jsonl", "mmbench/upload.tsv", "results.json")


@pytest.fixture(scope="module")
def earlier(bench: Path) -> Path:
    """The output of a run of the first model, to be copied."""
    evaluate(make_plan(_values(bench, bench / "earlier")), lambda event: None)
    return bench / "earlier"


@pytest.fixture
def output(earlier: Path, tmp_path: Path) -> Path:
    """A folder with the output of an earlier run."""
    return Path(shutil.copytree(earlier, tmp_path / "out"))


@pytest.fixture(scope="module")
def other(bench: Path) -> str:
    """A second model."""
    save_tiny(bench / "other", initializer_range=0.3)
    return str(bench / "other")


def _failing(bench: Path, output: Path, folder: Path, order: tuple[str, ...]) -> dict[str, Any]:
    """Return a plan whose MMBench table has an image that only decoding finds broken."""
    table = read_table(bench / "m.tsv")
    table.loc[2, "image"] = base64.b64encode(png_without_pixels()).decode()
    table.to_csv(folder / "broken.tsv", sep="\t", index=False)
    values = _changed(_values(bench, output), "mmbench", table=str(folder / "broken.tsv"))
    return {**values, "benchmarks": {name: values["benchmarks"][name] for name in order}}


@pytest.mark.slow
def test_a_run_that_fails_in_its_first_benchmark_keeps_an_earlier_models_output(
    bench: Path, output: Path, other: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: (output / name).read_bytes() for name in FILES}
    values = {**_failing(bench, output, tmp_path, ("mmbench", "textvqa")), "model": other}
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "plan.json")]) == 2
    event = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert event["event"] == "error" and "sample '1'" in event["message"] and "\n" not in event["message"]
    assert {name: (output / name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in output.iterdir()) == ["mmbench", "results.json", "textvqa"]


@pytest.mark.slow
def test_a_failure_between_two_benchmarks_keeps_the_finished_one_and_a_rerun_continues(
    bench: Path, output: Path, other: str, tmp_path: Path
) -> None:
    values = {**_failing(bench, output, tmp_path, ("textvqa", "mmbench")), "model": other}
    with pytest.raises(ImageError, match="sample '1'"):
        evaluate(make_plan(values), lambda event: None)
    assert sorted(path.name for path in output.iterdir()) == ["textvqa"]
    whole = {**_values(bench, output), "model": other}
    results, answered = _answered(whole)
    assert answered == ["mmbench"]
    fresh, _ = _answered({**whole, "output": str(tmp_path / "fresh")})
    assert results["results"] == fresh["results"]
    for name in FILES[:3]:
        assert (output / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def _answered(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the results of a run, and the benchmarks that it answered."""
    events: list[dict[str, Any]] = []
    results = evaluate(make_plan(values), events.append)
    return results, list(dict.fromkeys(event["benchmark"] for event in events if event["event"] == "progress"))


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["answers", "swap"])
def test_a_killed_run_never_leaves_answers_of_two_models(
    bench: Path, output: Path, other: str, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    (output / "mmbench" / ".partial").mkdir()
    (output / "mmbench" / ".partial" / "answers.jsonl").write_text("of a run that was killed")

    class Killed(BaseException):
        pass

    if killed_in == "answers":

        def emit(event: dict[str, Any]) -> None:
            if event["event"] == "progress" and event["benchmark"] == "mmbench":
                raise Killed
    else:
        replace = Path.replace

        def one_then_killed(self: Path, target: Path) -> Path:
            if target == output / "mmbench" / "answers.jsonl":
                raise Killed
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", one_then_killed)
        emit = [].append  # type: ignore[assignment]
    whole = {**_values(bench, output), "model": other}
    with pytest.raises(Killed):
        evaluate(make_plan(whole), emit)
    monkeypatch.undo()
    assert not (output / "results.json").exists() and not (output / "mmbench" / "unit.json").exists()
    answer = json.loads((output / "textvqa" / "answers.jsonl").read_text().splitlines()[0])
    assert answer["model_id"] == "other"
    results, answered = _answered(whole)
    assert answered == ["mmbench"] and list(results["benchmarks"]) == ["textvqa", "mmbench"]


@pytest.mark.slow
def test_only_an_added_or_changed_benchmark_is_answered(bench: Path, tmp_path: Path) -> None:
    both = _values(bench, tmp_path / "out")
    _, answered = _answered(_changed(both, "mmbench"))
    assert answered == ["textvqa"]
    added, answered = _answered(both)
    assert answered == ["mmbench"]
    assert _answered(both) == (added, [])
    table = read_table(bench / "m.tsv")
    table.loc[0, "hint"] = "Look closely."
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    changed, answered = _answered(_changed(both, "mmbench", table=str(tmp_path / "m.tsv")))
    assert answered == ["mmbench"]
    assert changed["benchmarks"]["textvqa"] == added["benchmarks"]["textvqa"]
    fresh, _ = _answered({**both, "output": str(tmp_path / "fresh")})
    assert added["results"] == fresh["results"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["image", "annotations", "max_new_tokens", "answers"])
def test_the_key_contains_everything_that_answers_depend_on(bench: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(bench, tmp_path / "bench")
    values = _values(tmp_path / "bench", tmp_path / "out")
    _answered(values)
    expected = ["textvqa"]
    if change == "image":
        Image.new("RGB", (40, 40), "red").save(tmp_path / "bench" / "images" / "i0.png")
    elif change == "annotations":
        path = tmp_path / "bench" / "a.json"
        path.write_text(path.read_text().replace('"x"', '"y"', 1))
    elif change == "max_new_tokens":
        values, expected = {**values, "max_new_tokens": 2}, ["textvqa", "mmbench"]
    else:
        (tmp_path / "out" / "textvqa" / "answers.jsonl").write_text("damaged")
    assert _answered({**values, "batch_size": 3})[1] == expected


@pytest.mark.slow
def test_a_run_of_some_benchmarks_keeps_units_of_the_same_model_and_removes_those_of_others(
    bench: Path, output: Path, other: str
) -> None:
    (output / "textvqa" / "mine.txt").write_text("kept")
    values = _changed(_values(bench, output), "textvqa")
    results, answered = _answered(values)
    assert answered == [] and list(results["benchmarks"]) == ["mmbench", "textvqa"]
    results, answered = _answered({**values, "model": other})
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()) == [
        "mmbench/answers.jsonl", "mmbench/questions.jsonl", "mmbench/unit.json", "mmbench/upload.tsv",
        "mmbench/upload.xlsx", "results.json", "textvqa/mine.txt",
    ]  # fmt: skip
    assert list(results["benchmarks"]) == answered == ["mmbench"]
    assert list(results["benchmarks"]["mmbench"]["files_sha256"]) == ["table"]
    answer = json.loads((output / "mmbench" / "answers.jsonl").read_text().splitlines()[0])
    assert (answer["model_id"], results["model"]) == ("other", other)


@pytest.mark.slow
def test_units_with_a_key_from_the_caller_are_kept_in_the_folders_of_the_plan(bench: Path, tmp_path: Path) -> None:
    values = _values(bench, tmp_path / "out")
    units = {name: {"folder": str(tmp_path / "units" / name), "unit_key": "k"} for name in values["benchmarks"]}
    results, answered = _answered({**values, "units": units})
    assert answered == ["textvqa", "mmbench"] and [path.name for path in (tmp_path / "out").iterdir()] == [
        "results.json"
    ]
    units["mmbench"]["unit_key"] = "l"
    again, answered = _answered({**values, "units": units, "output": str(tmp_path / "elsewhere")})
    assert answered == ["mmbench"] and again["results"] == results["results"]


@pytest.mark.slow
def test_two_runs_cannot_write_to_the_same_folder(
    bench: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = _values(bench, tmp_path / "out")
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "two plans write to" in json.loads(capfd.readouterr().out)["message"]
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(AnswerError, match="another evaluation is writing to"):
        evaluate(make_plan(values), lambda event: None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_only_the_named_benchmarks_of_a_plan_are_run(
    bench: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(_values(bench, tmp_path / "out")))
    assert main([str(tmp_path / "plan.json"), "--benchmarks", "mmbench"]) == 0
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]) == ["mmbench"]
    capfd.readouterr()
    for names, message in (
        ("pope", "'pope' is asked for, but none of its files is given"),
        ("popp", "did you mean 'pope'"),
    ):
        assert main([str(tmp_path / "plan.json"), "--benchmarks", names]) == 2
        assert message in capfd.readouterr().err


@pytest.mark.slow
def test_image_tokens_are_removed_from_questions(bench: Path, earlier: Path, tmp_path: Path) -> None:
    table = read_table(bench / "m.tsv")
    table["image"] = "data:image/png;base64," + table["image"]
    table.loc[0, "question"] = "<image>\nWhich?<image>"
    table.loc[1, "A"] = "<image>a"
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    questions = (bench / "q.jsonl").read_text().replace("What is it??", "<image>\\nWhat is it??")
    (tmp_path / "q.jsonl").write_text(questions)
    values = _changed(_values(bench, tmp_path / "out"), "mmbench", table=str(tmp_path / "m.tsv"))
    evaluate(make_plan(_changed(values, "textvqa", questions=str(tmp_path / "q.jsonl"))), lambda event: None)
    for name in FILES[:3]:
        assert (tmp_path / "out" / name).read_text() == (earlier / name).read_text()


def test_a_benchmark_with_missing_rotations_is_marked(bench: Path, tmp_path: Path) -> None:
    table = read_table(bench / "m.tsv")[:3]
    table[["A", "B", "C", "answer"]] = [["a", "b", "", "A"], ["b", "a", "", "B"], ["a", "b", "c", "A"]]
    table.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    values = _changed(_changed(_values(bench, tmp_path / "out"), "textvqa"), "mmbench", table=str(tmp_path / "m.tsv"))
    results = evaluate(make_plan(values), lambda event: None)
    counts = results["benchmarks"]["mmbench"]
    assert (counts["incomplete"], counts["missing"]) == (1, 2)
    assert (
        _metrics(results, "mmbench")["accuracy"]["protocol"]
        == "incomplete, MMBench dev, CircularEval, letter asked for directly"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": {"mmbench": {"table": "FOLDER"}}}, r"mmbench\.table: '.*' is a folder, not a file"),
        ({"batch_size": "4"}, r"batch_size = '4': .*valid integer"),
        ({"compiled": 1}, r"compiled = 1: .*valid boolean"),
        ({"benchmarks": {"mmbench": {"table": 7}}}, r"benchmarks\.mmbench: table = 7: .*path"),
        ({"benchmarks": {"mmbench": 7}}, r"benchmarks\.mmbench = 7: .*valid dictionary"),
        ({"model": None}, r"key 'model' is missing: add it"),
        ({"dtype": ["float32"]}, r"dtype = \['float32'\]"),
        ({"output": "FILE"}, r"output: '.*' is a file; give a folder"),
    ],
)
def test_faults_of_a_plans_values_are_named(
    bench: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    places = {"FOLDER": str(tmp_path), "FILE": str(bench / "a.json")}
    text = json.dumps({**_values(bench, tmp_path / "out"), **change})
    for name, place in places.items():
        text = text.replace(json.dumps(name), json.dumps(place))
    (tmp_path / "plan.json").write_text(text)
    assert main([str(tmp_path / "plan.json")]) == 2
    printed = capfd.readouterr()
    assert re.search(message, printed.err) and printed.err.count("\n") == 1


@pytest.mark.parametrize("content", ["[]", "{", "null", ""])
def test_a_plan_that_is_not_an_object_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "plan.json").write_text(content)
    assert main([str(tmp_path / "plan.json")]) == 2
    assert str(tmp_path / "plan.json") in capfd.readouterr().err
