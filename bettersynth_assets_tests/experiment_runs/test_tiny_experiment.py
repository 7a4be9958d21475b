"""A whole experiment with tiny models: real sets, trainings and answers, by the command."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from bettersynth_assets.experiments.conclusions import NO_QUESTIONS
from bettersynth_assets.main import main
from bettersynth_assets_tests.helpers.tiny_project import write_tiny_project

pytestmark = pytest.mark.slow

EXPERIMENT = """
name: tiny
arms: {tiny_recipe: {}, fewer: {recipe: tiny_recipe, set: {budget.exposures: 8}}}
seeds: {start: 3, step: 1, max: 3}
decide: {benchmarks: [textvqa, mmbench/row_accuracy]}
"""


@dataclass(frozen=True, kw_only=True)
class FirstRun:
    """A finished experiment: its file, the profile's folder, its runs, and what the command printed."""

    file: str
    root: Path
    runs: list[dict[str, Any]]
    out: str
    err: str


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstRun]:
    folder = tmp_path_factory.mktemp("experiment")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in write_tiny_project(folder).items():
            patch.setenv(name, value)
        patch.delenv("BETTERSYNTH_SEED", raising=False)
        file = folder / "tiny.yaml"
        file.write_text(EXPERIMENT)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            assert main(["experiment", "table", str(file)]) == 1 and "no runs yet" in err.getvalue()
            assert main(["experiment", "run", str(file)]) == 0
        root = folder / "data" / "tiny"
        yield FirstRun(file=str(file), root=root, runs=runs_of(root), out=out.getvalue(), err=err.getvalue())


def runs_of(root: Path) -> list[dict[str, Any]]:
    return list(ds.dataset(root / "experiments" / "runs").to_table().to_pylist())


def test_an_experiment_is_run_once_and_read_afterwards(first_run: FirstRun, capsys: pytest.CaptureFixture[str]) -> None:
    file, root, runs = first_run.file, first_run.root, first_run.runs
    assert "tiny: 9 of 9 runs are missing: baseline|0" in first_run.err
    assert "check tokens_reported: passed: 9 runs, all with tokens" in first_run.err
    sentences = first_run.out.splitlines()
    assert sentences and all("random rows" in line or "near its floor" in line for line in sentences)

    assert len(runs) == 9 and {run["training_seed"] for run in runs} == {0, 1, 2}
    assert {run["pretrain_exposures"] for run in runs} == {4}  # one step of the tiny profile
    # Each run of the baseline has rows of its own, the others share their arm's.
    assert len({run["arm"] for run in runs}) == 3 + 2

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    assert main(["experiment", "run", file]) == 0
    again = capsys.readouterr()
    assert again.out == first_run.out and "are missing" not in again.err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")} == before

    assert main(["experiment", "table", file, "--json"]) == 0
    board = json.loads(capsys.readouterr().out)
    assert {row["facts"]["arm"] for row in board["rows"]} == {"baseline", "tiny_recipe", "fewer"}
    assert board["conclusions"] == sentences
    assert all(row["facts"]["commits"] == board["rows"][0]["facts"]["commits"] != [] for row in board["rows"])
    assert set(board["chance"]) == {"textvqa", "mmbench/row_accuracy"} and all(
        0 < level < 100 for level in board["chance"].values()
    )
    assert main(["experiment", "decisions", file, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3 * 2  # two benchmarks and their mean; 1 and 2 seeds
    assert main(["experiment", "diff", file, "tiny_recipe", "fewer"]) == 0
    text = capsys.readouterr().out
    assert "budget.exposures: - | 8" in text
    assert "MMBench row_accuracy, tiny_recipe - fewer: " in text and text.count("with other questions of") == 2
    assert NO_QUESTIONS not in text
    assert main(["experiment", "plan", file]) == 0
    assert "MMBench row_accuracy, sd over seeds" in capsys.readouterr().out


def test_a_curve_is_run_by_the_command_with_rows_of_its_own_in_every_run(
    first_run: FirstRun, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment", "curve", "tiny_recipe", "--repeats", "1", "--fresh", "none", "--seeds", "3"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "| x1 | 4 | " in shown.out and "no fit: 1 different number(s) of rows" in shown.out
    folder = first_run.root / "experiments" / "curve_tiny_recipe"
    assert {path.name for path in folder.glob("curve.*")} == {"curve.md", "curve.json", "curve.svg"}
    assert (folder / "curve.md").read_text() == shown.out
    before = {run["run"]: run["arm"] for run in first_run.runs}
    added = [run for run in runs_of(first_run.root) if run["run"] not in before]
    # Not trained again: random rows without repetition, which are the baseline's, and the recipe's first draw of rows,
    # which is the experiment's arm.
    assert sorted(run["training_seed"] for run in added) == [1, 2]
    assert len({run["arm"] for run in added} - {*before.values()}) == 2
