"""What the evaluation stages check and depend on; answering itself is the toolkit's (``test_evaluate_run``)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.stages import evaluate, train
from bettersynth_assets.stages.side_inputs import check_benchmarks, check_finetune
from bettersynth_assets_tests.dagster.fake_graph import write_profile

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
    (folder / "m.tsv").write_text(f"{HEAD}7\tWhich?\tred\tblue\tA\t{image}\n")
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
    return evaluate.depends(settings, "all", {})


def test_whole_benchmark_files_pass(settings: Settings) -> None:
    check_benchmarks(settings)


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
        check_benchmarks(settings)
    assert "\n" not in str(refused.value)


def test_a_replaced_image_of_equal_size_gives_another_key(settings: Settings, tmp_path: Path) -> None:
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
    assert evaluate.EVAL_RESULTS.preflight is evaluate.BASELINE_RESULTS.preflight is check_benchmarks
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
        check_finetune(changed)
        return
    with pytest.raises(ConfigError, match=rf"fine-tuning set \(profile, `training`\): .*{message}"):
        check_finetune(changed)


FILES = ("answers.jsonl", "questions.jsonl")


def test_a_seed_counts_as_answered_only_with_whole_results_of_the_same_benchmarks_and_their_files(
    tmp_path: Path,
) -> None:
    names = ("textvqa", "mmbench")
    made = {"questions": 1, "files": FILES}
    whole = json.dumps({"benchmarks": dict.fromkeys(names, made), "results": []})
    for name in names:
        (tmp_path / name).mkdir()
        for file in FILES:
            (tmp_path / name / file).touch()
    for content, done in (("", False), ("{}", False), ("null", False), (whole[:-9], False), (whole, True)):
        (tmp_path / "results.json").write_text(content)
        assert evaluate._is_answered(tmp_path, names) is done
    assert not evaluate._is_answered(tmp_path, names[:1])
    (tmp_path / "mmbench" / "questions.jsonl").unlink()
    assert not evaluate._is_answered(tmp_path, names)


def test_the_key_follows_what_the_files_hold_and_which_benchmarks_are_asked(settings: Settings, tmp_path: Path) -> None:
    before = _key(settings)
    (tmp_path / "bench" / "m.tsv").write_text((tmp_path / "bench" / "m.tsv").read_text().replace("blue", "green"))
    changed = _key(settings)
    assert changed["benchmarks"]["textvqa"] == before["benchmarks"]["textvqa"]
    assert changed["benchmarks"]["mmbench"] != before["benchmarks"]["mmbench"]
    evaluation = settings.profile.evaluation
    one = evaluation.changed(benchmarks={**evaluation.benchmarks, "mmbench": None})
    fewer = replace(settings, profile=settings.profile.model_copy(update={"evaluation": one}))
    assert _key(fewer)["benchmarks"] == {"textvqa": before["benchmarks"]["textvqa"]}
