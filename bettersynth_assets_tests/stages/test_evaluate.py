"""Checks and dependencies of the evaluation stages; the toolkit's tests cover answering (``test_evaluate_run``)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.defs.resources.settings import RunSettings
from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Result, Work
from bettersynth_assets.engine.store import WHOLE, Manifest, write_table
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.scheduler.child_process import ChildError
from bettersynth_assets.stages import evaluate, train
from bettersynth_assets.stages.answers import evaluations
from bettersynth_assets.stages.side_inputs import check_benchmarks, check_finetune
from bettersynth_assets_tests.helpers.broken_pictures import png_without_pixels
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from toolkit.evaluation.run import evaluate as answer
from toolkit.evaluation.run import make_plan
from toolkit.models.mgm.tiny import save_tiny

RUN = "0123456789abcdef"
HEAD = "index\tquestion\tA\tB\tanswer\timage\n"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A profile that names benchmarks of one question each."""
    folder = tmp_path / "bench"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(folder / "images" / "i1.bmp")
    Image.new("RGB", (9, 9), "red").save(folder / "red.png")
    (folder / "q.jsonl").write_text(json.dumps({"question_id": "i1", "image": "i1.bmp", "text": "What?"}) + "\n")
    (folder / "a.json").write_text(
        json.dumps({"data": [{"image_id": "i1", "question": "What?", "answers": ["x"] * 10}]})
    )
    image = base64.b64encode((folder / "red.png").read_bytes()).decode()
    (folder / "m.tsv").write_text(f"{HEAD}2000007\tWhich?\tred\tblue\tA\t{image}\n")
    textvqa = {"questions": "q.jsonl", "annotations": "a.json", "images": "images"}
    named = {
        "textvqa": {role: str(folder / file) for role, file in textvqa.items()},
        "mmbench": {"table": str(folder / "m.tsv")},
    }
    profile = write_profile(tmp_path / "p.yaml", evaluation={"benchmarks": named})
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(profile))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(tmp_path / "data"))
    return load_settings()


def _key(settings: Settings) -> Any:
    return evaluate.depends(ResolvedRun(settings), "all", {})


def test_valid_benchmark_files_are_accepted(settings: Settings) -> None:
    check_benchmarks(ResolvedRun(settings))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a.json").write_text("[]"), r"a\.json: needs an object with a list 'data'"),
        (lambda folder: (folder / "q.jsonl").write_text('{"question_id"'), r"q\.jsonl, line 1: no JSON"),
        (lambda folder: (folder / "m.tsv").write_text(HEAD), r"m\.tsv: needs rows with a column 'index'"),
        (lambda folder: (folder / "m.tsv").write_text(f"{HEAD}7\tWhich?\tred\t\tB\taGk=\n"), "question 7: the right"),
        (lambda folder: (folder / "m.tsv").write_text(f"{HEAD}7\tWhich?\tred\t\tA\taGk=\n"), "question 7: its inline"),
        (lambda folder: ((folder / "a.json").unlink(), (folder / "a.json").mkdir()), r"a\.json' is a folder"),
        (lambda folder: (folder / "images" / "i1.bmp").unlink(), r"question i1: image .*i1\.bmp is missing"),
        (lambda folder: (folder / "images" / "i1.bmp").write_bytes(b"BM"), r"question i1: image .*i1\.bmp"),
    ],
)  # fmt: skip
def test_a_broken_benchmark_is_a_fault_of_the_profile(
    settings: Settings, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(tmp_path / "bench")
    with pytest.raises(ConfigError, match=rf"benchmark files \(profile, `evaluation`\): .*{message}") as refused:
        check_benchmarks(ResolvedRun(settings))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_replaced_image_of_equal_size_changes_the_key(settings: Settings, tmp_path: Path) -> None:
    before = _key(settings)
    image = tmp_path / "bench" / "images" / "i1.bmp"
    size = image.stat().st_size
    Image.new("RGB", (9, 9), "blue").save(image)
    assert image.stat().st_size == size and _key(settings) != before
    Image.new("RGB", (9, 9), "red").save(image)
    assert _key(settings) == before
    (tmp_path / "bench" / "q.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"q\.jsonl: holds no rows"):
        _key(settings)


def test_side_inputs_are_checked_when_a_run_begins() -> None:
    assert evaluate.EVAL_RESULTS.preflight is evaluate.BASELINE_RESULTS.preflight is evaluate.preflight
    assert train.MGM_CHECKPOINT.preflight is train.BASELINE_CHECKPOINT.preflight is check_finetune


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"tune\.json: cannot be read as JSON"),
        ("[]", "needs a list of at least one row"),
        ('[{"id": "t", "image": "gone.png", "conversations": TURNS}]', r"1 of 1 image files are missing.*gone\.png"),
        ('[{"id": "t", "image": "i1.bmp", "conversations": []}]', r"tune\.json, row 0"),
        ('[{"id": "t", "image": "i1.bmp", "conversations": TURNS}]', None),
    ],
)
def test_a_broken_fine_tuning_set_is_a_fault_of_the_profile(
    settings: Settings, tmp_path: Path, content: str, message: str | None
) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}]
    (tmp_path / "tune.json").write_text(content.replace("TURNS", json.dumps(turns)))
    named = {"finetune_json": str(tmp_path / "tune.json"), "finetune_images": str(tmp_path / "bench" / "images")}
    training = settings.profile.training.model_copy(update=named)
    changed = replace(settings, profile=settings.profile.model_copy(update={"training": training}))
    if message is None:
        check_finetune(ResolvedRun(changed))
        return
    with pytest.raises(ConfigError, match=rf"fine-tuning set \(profile, `training`\): .*{message}"):
        check_finetune(ResolvedRun(changed))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, as the stage finds it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "finetune", initializer_range=0.5)
    write_table(folder / "kept.parquet", pa.Table.from_pylist([{"seed": 3, "run": RUN, "path": "finetune"}]))
    return folder


@pytest.fixture
def without_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer in this process and briefly: a child would import torch and transformers for each call."""

    def run(module: str, plans: Mapping[Path, Mapping[str, Any]], *, on_event: Callable[[Any], None], log: Any) -> None:
        assert module == evaluate.MODULE
        for plan in plans.values():
            answer(make_plan({**json.loads(json.dumps(plan)), "max_new_tokens": 4}), on_event)

    monkeypatch.setattr(evaluate, "run_child", run)


def _evaluate(settings: Settings, model: Path, folder: Path) -> tuple[Result, list[str]]:
    """Return the stage's result, and the benchmarks that a model answered for it."""
    checkpoints = Manifest(
        stage="baseline_checkpoint", shard=WHOLE, key="k", rows_in=1, kept=1, rejected={}, quarantined={}, digest="d",
        files={"kept.parquet": seal(model / "kept.parquet")}, folder=str(model),
    )  # fmt: skip
    lines: list[str] = []
    folder.mkdir()
    work = Work(
        run=ResolvedRun(settings),
        shard=WHOLE,
        folder=folder,
        inputs={"baseline_checkpoint": [checkpoints]},
        log=lines.append,
    )
    result = evaluate.run_baseline(work)
    asked = [line for line in lines if line.startswith("baseline_checkpoint seed-3 ") and ": 1/1, " in line]
    return result, [line.split()[2].removesuffix(":") for line in asked]


def _with(settings: Settings, **benchmarks: Any) -> Settings:
    changed = settings.profile.evaluation.changed(benchmarks={**settings.profile.evaluation.benchmarks, **benchmarks})
    return replace(settings, profile=settings.profile.model_copy(update={"evaluation": changed}))


def _bytes(folder: Path) -> dict[str, bytes]:
    """Return the result's files without timings and without the workbook, which contains its creation time."""
    files = (
        path
        for path in (folder / "seed-3").rglob("*")
        if path.is_file() and path.name not in ("results.json", "upload.xlsx")
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in [*files, folder / "questions.parquet"]}


@pytest.mark.slow
@pytest.mark.usefixtures("without_child")
def test_only_an_added_or_changed_benchmark_is_answered_and_the_table_equals_that_of_one_run(
    settings: Settings, model: Path, tmp_path: Path
) -> None:
    one = settings.with_benchmarks(["textvqa"])
    first, answered = _evaluate(one, model, tmp_path / "one")
    assert answered == ["textvqa"] and set(first.kept["benchmark"].to_pylist()) == {"textvqa"}
    added, answered = _evaluate(settings, model, tmp_path / "added")
    assert answered == ["mmbench"]
    together, answered = _evaluate(replace(settings, data_root=tmp_path / "other"), model, tmp_path / "together")
    assert sorted(answered) == ["mmbench", "textvqa"]
    assert added.kept.equals(together.kept) and added.files == together.files
    assert _bytes(tmp_path / "added") == _bytes(tmp_path / "together")
    _check_long_tables(settings)
    removed, answered = _evaluate(_with(settings, mmbench=None), model, tmp_path / "removed")
    assert (
        answered == [] and removed.kept.equals(first.kept) and _bytes(tmp_path / "removed") == _bytes(tmp_path / "one")
    )
    table = tmp_path / "bench" / "m.tsv"
    original = table.read_text()
    table.write_text(original.replace("blue", "green"))
    changed, answered = _evaluate(settings, model, tmp_path / "changed")
    assert answered == ["mmbench"] and changed.kept.num_rows == added.kept.num_rows
    table.write_text(original)
    back, answered = _evaluate(settings, model, tmp_path / "back")
    assert answered == [] and back.kept.equals(added.kept)


def _check_long_tables(settings: Settings) -> None:
    root, keys = settings.experiments_root, evaluations(ResolvedRun(settings))
    names = {f"{RUN}-{name}-{key}.parquet" for name, key in keys.items()}
    assert {path.name for path in (root / "questions").iterdir()} == names
    assert {path.name for path in (root / "metrics").iterdir()} == names
    (row,) = pq.read_table(root / "questions" / f"{RUN}-mmbench-{keys['mmbench']}.parquet").to_pylist()
    assert (row["question_id"], row["cluster"], row["run"]) == ("2000007", "7", RUN) and row["log_probability"] < 0
    for name, chance in (("mmbench", 50.0), ("textvqa", 100.0)):  # two options; ten equal answers to one question
        headline, *others = pq.read_table(root / "metrics" / f"{RUN}-{name}-{keys[name]}.parquet").to_pylist()
        assert headline["chance"] == chance and others[-1]["chance"] is None
    (row,) = pq.read_table(root / "questions" / f"{RUN}-textvqa-{keys['textvqa']}.parquet").to_pylist()
    assert (row["question_id"], row["cluster"]) == ("i1", "i1.bmp") and 0 <= row["score"] <= 1


@pytest.mark.slow
def test_a_failure_between_two_benchmarks_keeps_the_finished_one_and_the_next_run_continues(
    settings: Settings, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    image = tmp_path / "bench" / "images" / "i1.bmp"  # of TextVQA, which is answered after MMBench
    original = image.read_bytes()
    image.write_bytes(png_without_pixels())
    with pytest.raises(ChildError, match="sample 'i1'"):
        _evaluate(settings, model, tmp_path / "failed")
    image.write_bytes(original)
    request.getfixturevalue("without_child")
    result, answered = _evaluate(settings, model, tmp_path / "rerun")
    assert answered == ["textvqa"] and set(result.kept["benchmark"].to_pylist()) == {"textvqa", "mmbench"}


@pytest.mark.slow
@pytest.mark.usefixtures("without_child")
def test_only_a_damaged_answer_file_is_answered_again(settings: Settings, model: Path, tmp_path: Path) -> None:
    first, _ = _evaluate(settings, model, tmp_path / "first")
    (damaged,) = settings.shared_root.glob("answers/mmbench-*/answers.jsonl")
    damaged.write_text("")
    again, answered = _evaluate(settings, model, tmp_path / "again")
    assert answered == ["mmbench"] and _bytes(tmp_path / "again") == _bytes(tmp_path / "first")
    assert again.kept.equals(first.kept)


@pytest.mark.slow
def test_a_launch_can_select_some_of_the_profiles_benchmarks(settings: Settings) -> None:
    some = RunSettings(benchmarks=["mmbench"]).load(settings.recipe)
    assert list(some.profile.evaluation.chosen()) == ["mmbench"]
    assert list(_key(some)["benchmarks"]) == ["mmbench"] and _key(RunSettings().load(settings.recipe)) == _key(settings)
    with pytest.raises(ConfigError, match="'pope' is not evaluated; the profile has mmbench, textvqa"):
        RunSettings(benchmarks=["pope"]).load(settings.recipe)


@pytest.mark.slow
def test_the_key_depends_on_file_contents_and_the_selected_benchmarks(settings: Settings, tmp_path: Path) -> None:
    before = _key(settings)
    (tmp_path / "bench" / "m.tsv").write_text((tmp_path / "bench" / "m.tsv").read_text().replace("blue", "green"))
    changed = _key(settings)
    assert changed["benchmarks"]["textvqa"] == before["benchmarks"]["textvqa"]
    assert changed["benchmarks"]["mmbench"] != before["benchmarks"]["mmbench"]
    evaluation = settings.profile.evaluation
    one = evaluation.changed(benchmarks={**evaluation.benchmarks, "mmbench": None})
    fewer = replace(settings, profile=settings.profile.model_copy(update={"evaluation": one}))
    assert _key(fewer)["benchmarks"] == {"textvqa": before["benchmarks"]["textvqa"]}
