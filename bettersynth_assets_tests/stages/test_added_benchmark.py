"""A benchmark from outside the package: the example of docs/extending.md, one file named in a profile."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from PIL import Image

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.integrity import seal
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.rules import Evidence
from bettersynth_assets.engine.stage import Work, no_log
from bettersynth_assets.engine.store import WHOLE, Manifest, write_table
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.reports.summary import as_text, summarize
from bettersynth_assets.stages import evaluate
from bettersynth_assets.stages.graph import STAGES
from bettersynth_assets.stages.rules import all_answered
from bettersynth_assets.stages.side_inputs import check_benchmarks
from bettersynth_assets_tests.helpers.fake_graph import write_profile
from bettersynth_assets_tests.helpers.without_child import run_here
from toolkit.evaluation import run, score
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.models.mgm.tiny import save_tiny
from toolkit.registry import load_extensions

MODULE = "bettersynth_extension_counting"
ANSWERS = ("2", "3.", "many", "4")


def _block(name: str) -> str:
    """Return a code block of the page by its first line."""
    text = (PROJECT_ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (found,) = (block for block in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL) if block.startswith(f"# {name}"))
    return str(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's file, a table of four questions about three images, and a registry without it."""
    monkeypatch.setattr(BENCHMARKS, "_added", {})
    known = set(sys.modules)
    (tmp_path / "counting.py").write_text(_block("counting.py"), encoding="utf-8")
    images = tmp_path / "counting" / "images"
    images.mkdir(parents=True)
    rows = ["id,image,question,answer"]
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(images / f"{number % 3}.png")
        rows.append(f"q{number},{number % 3}.png,How many?,{number + 2}")
    (tmp_path / "counting" / "counting.csv").write_text("\n".join(rows) + "\n")
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(MODULE):
            del sys.modules[name]


def forget_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import extension files again, as a new process does."""
    monkeypatch.setattr("toolkit.registry._imported", {})
    monkeypatch.setattr(BENCHMARKS, "_added", {})


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A profile as the page shows it, of the tests' size."""
    values = yaml.safe_load(_block("counting.yaml"))
    named = {role: str(folder / path) for role, path in values["evaluation"]["benchmarks"]["counting"].items()}
    path = write_profile(
        folder / "p.yaml",
        extensions=[str(folder / values["extensions"][0])],
        evaluation={"batch": 4, "benchmarks": {**values["evaluation"]["benchmarks"], "counting": named}},
    )
    monkeypatch.setenv("BETTERSYNTH_PROFILE", str(path))
    monkeypatch.setenv("BETTERSYNTH_DATA", str(folder / "data"))
    return load_settings()


@pytest.mark.slow
def test_the_command_answers_and_scores_a_benchmark_of_an_extension_file(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_tiny(folder / "model", initializer_range=0.5)
    table, images = str(folder / "counting" / "counting.csv"), str(folder / "counting" / "images")
    extension = ["--extension", str(folder / "counting.py")]
    files = ["--counting-table", table, "--counting-images", images]
    plan = ["--model", str(folder / "model"), "--output", str(folder / "out"), "--device", "cpu"]
    assert run.main([*extension, *plan, *files, "--benchmarks", "counting"]) == 0
    results = json.loads((folder / "out" / "results.json").read_text())["results"]
    assert [(row["benchmark"], row["metric"], row["n"]) for row in results] == [
        ("counting", "accuracy", 4), ("counting", "log_probability_per_token", 4),
        ("counting", "log_probability_per_character", 4),
    ]  # fmt: skip
    rows = list(map(json.loads, (folder / "out" / "counting" / "questions.jsonl").read_text().splitlines()))
    assert [(row["question_id"], row["cluster_id"]) for row in rows] == [
        ("q0", "0.png"), ("q1", "1.png"), ("q2", "2.png"), ("q3", "0.png"),
    ]  # fmt: skip
    assert all(row["log_probability"] < 0 and row["characters"] == 1 for row in rows)
    lines = [{"question_id": f"q{number}", "text": text} for number, text in enumerate(ANSWERS)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capfd.readouterr()
    command = [*extension, "counting", "--table", table, "--answers", str(folder / "answers.jsonl")]
    assert score.main(command) == 0
    assert json.loads(capfd.readouterr().out) == {
        "benchmark": "counting", "accuracy": 50.0, "n": 4, "unparsed": 1,
        "protocol": "Counting 1, single word or phrase",
    }  # fmt: skip


@pytest.mark.slow
def test_the_stage_evaluates_an_added_benchmark_and_checks_and_summary_show_it(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(folder / "models" / "finetune", initializer_range=0.5)
    check_benchmarks(ResolvedRun(settings))

    def answer(*arguments: Any, **named: Any) -> None:
        with monkeypatch.context() as patch:
            forget_extensions(patch)
            for name in [name for name in sys.modules if name.startswith(MODULE)]:
                patch.delitem(sys.modules, name)
            run_here(*arguments, **named)

    monkeypatch.setattr(evaluate, "run_child", answer)
    checkpoint = _finished(folder / "models", [{"seed": 0, "run": "0123456789abcdef", "path": "finetune"}])
    run = ResolvedRun(settings)
    work = Work(run=run, shard=WHOLE, folder=folder / "made", inputs={"baseline_checkpoint": [checkpoint]},
                log=no_log)  # fmt: skip
    work.folder.mkdir()
    result = evaluate.run_baseline(work)
    assert result.kept["metric"].to_pylist()[0] == "accuracy" and set(result.kept["benchmark"].to_pylist()) == {
        "counting"
    }
    slot = Pipeline(STAGES, ResolvedRun(settings)).slot("baseline_results", WHOLE)
    target = slot.begin("key", resume=False)
    for name in ("questions.parquet",):
        (target / name).write_bytes((work.folder / name).read_bytes())
    finished = _finished(target, result.kept.to_pylist(), stats=result.stats, more=("questions.parquet",))
    slot.commit(finished)
    (manifest,) = Pipeline(STAGES, ResolvedRun(settings)).current("baseline_results")
    verdict = all_answered(Evidence(manifests=[manifest], upstream={}, settings=settings, columns=None))
    assert verdict.passed and verdict.summary == "4 answers"
    assert manifest.table("questions")["question_id"].to_pylist() == ["q0", "q1", "q2", "q3"]
    text = " ".join(as_text(summarize(settings)).split())
    assert "arm Counting accuracy, n 4 seeds baseline" in text
    assert "log-probability of the correct answer per token, nats: arm Counting seeds baseline -" in text


def test_files_code_and_images_of_an_added_benchmark_are_part_of_the_key(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> Any:
        return evaluate.depends(ResolvedRun(settings), WHOLE, {})["benchmarks"]["counting"]  # type: ignore[index]

    before = key()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(folder / "counting" / "images" / "1.png")
    assert {name for name, value in key().items() if value != before[name]} == {"folders"}
    (folder / "counting.py").write_text(_block("counting.py") + "\n")
    with pytest.raises(ValueError, match="has changed since this process imported it"):
        key()
    forget_extensions(monkeypatch)
    load_extensions([folder / "counting.py"])
    assert {name for name, value in key().items() if value != before[name]} == {"folders", "code"}


def test_a_fault_in_the_files_of_an_added_benchmark_is_found_before_training(settings: Settings, folder: Path) -> None:
    (folder / "counting" / "counting.csv").write_text("id,image,question,answer\nq9,0.png,How many?,some\n")
    with pytest.raises(ConfigError, match=r"counting\.csv, question q9: no number, 'some'"):
        check_benchmarks(ResolvedRun(settings))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tabel": "t.csv", "images": "i"}, "unknown key 'tabel': did you mean 'table'"),
        ({}, "the miniature world has none for it: set its table, images"),
    ],
)
def test_settings_of_an_added_benchmark_are_checked_like_those_of_built_in_ones(
    settings: Settings, folder: Path, values: dict[str, str], message: str
) -> None:
    changes = {"extensions": [str(folder / "counting.py")], "evaluation": {"benchmarks": {"counting": values}}}
    with pytest.raises(ConfigError, match=message):
        profile = load_profile(str(write_profile(folder / "other.yaml", **changes)))
        check_benchmarks(ResolvedRun(Settings(profile=profile, recipe=settings.recipe, data_root=settings.data_root)))


def _finished(folder: Path, rows: list[dict[str, Any]], stats: Any = None, more: tuple[str, ...] = ()) -> Manifest:
    """Write a finished set as the engine does."""
    write_table(folder / "kept.parquet", pa.Table.from_pylist(rows))
    return Manifest(
        stage="baseline_results", shard=WHOLE, key="key", rows_in=len(rows), kept=len(rows), rejected={},
        quarantined={}, digest="d", files={name: seal(folder / name) for name in ("kept.parquet", *more)},
        stats=stats or {}, folder=str(folder),
    )  # fmt: skip
